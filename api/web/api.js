/* api.js - requests to this server, with the key where there is one, and what goes wrong.
 *
 * Paths are relative, so that the page works behind a proxy that puts the server under a prefix. */

const STORED = "scdiva-key"; /* in sessionStorage: this tab's alone, and gone with it */
let key = "";
try {
    key = sessionStorage.getItem(STORED) ?? "";
} catch { /* storage is turned off: the key lives as long as the page */ }

export const hasKey = () => key !== "";

export function setKey(value) {
    key = value;
    try {
        if (value)
            sessionStorage.setItem(STORED, value);
        else
            sessionStorage.removeItem(STORED);
    } catch { /* as above */ }
}

/* What went wrong, as RFC 9457 has it. status 0: no answer at all. */
export class Problem extends Error {
    constructor(status, title, detail, more = {}) {
        super(`${title}: ${detail}`);
        Object.assign(this, {errors: [], ...more, status, title, detail});
    }
}

async function problemOf(response) {
    const type = response.headers.get("Content-Type") ?? "";
    const text = await response.text().catch(() => "");
    if (type.startsWith("application/problem+json")) {
        try {
            const said = JSON.parse(text);
            return new Problem(response.status, said.title, said.detail, said);
        } catch { /* cut off: told as it is */ }
    }
    return new Problem(response.status, `The answer was ${response.status}`,
                       `${response.statusText} ${text.slice(0, 500)}`.trim() ||
                       "Something between this page and the server says no more.");
}

function noAnswer() {
    document.dispatchEvent(new Event("no-answer"));
    return new Problem(0, "The server does not answer",
                       "It may have been stopped, or the network is down. This page keeps trying.");
}

/* The response, or a Problem is thrown. Of a 401 the page hears as well ("key-needed"), and of a
 * server that does not answer ("no-answer"). */
export async function call(path, {headers = {}, ...rest} = {}) {
    const sent = key;
    let response;
    try {
        response = await fetch(path, {...rest, cache: "no-store",
            headers: sent ? {...headers, Authorization: `Bearer ${sent}`} : headers});
    } catch (error) {
        if (rest.signal?.aborted)
            throw error;
        throw noAnswer();
    }
    if (response.ok)
        return response;
    const problem = await problemOf(response);
    if (response.status === 401 && sent === key) /* else another key has come meanwhile */
        document.dispatchEvent(new CustomEvent("key-needed", {detail: problem.detail}));
    throw problem;
}

/* The answer's JSON, or its "text". */
export async function ask(path, options, kind = "json") {
    const response = await call(path, options);
    try {
        return await response[kind]();
    } catch (error) {
        throw options?.signal?.aborted ? error : noAnswer(); /* it broke off */
    }
}

/* The states of a job as they come: server-sent events, read from the stream, for an EventSource
 * cannot send a key. Ends with the job, or with the connection. */
export async function* jobEvents(id, signal) {
    const response = await call(`v1/jobs/${encodeURIComponent(id)}/events`, {signal});
    if (response.status === 204)
        return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
        const {done, value} = await reader.read();
        if (done)
            return;
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
            const data = block.split("\n").find((line) => line.startsWith("data: "));
            const job = data && JSON.parse(data.slice(6));
            if (job?.id)
                yield job;
        }
    }
}
