/* jobs.js - the list of jobs: what each is about, how far it is, its end and its result.
 *
 * Rows are changed in place, so that nothing jumps or loses the keyboard. A job that runs is
 * followed through its events; the rest, and what the events miss, comes with the list, which is
 * asked for again while anything runs. */
import {ask, call, hasKey, jobEvents} from "./api.js";
import {labelChart} from "./chart.js";
import {bytes, byId, count, duration, el, setText, several, showProblem, time} from "./dom.js";
import {TASKS} from "./tasks.js";
import {sendFile} from "./upload.js";

const PAGE = 20, MOST = 100, FOLLOWED = 2, PAUSE_MS = 2000;
/* FOLLOWED: a browser has six connections to a server, for all of its tabs. */
const STATES = {QUEUED: "waiting", RUNNING: "running", COMPLETE: "done", FAILED: "not possible",
                ERROR: "server error", CANCELED: "canceled"};

const rows = new Map(); /* id -> row */
let limit = PAGE, epoch = 0; /* epoch: a list that was asked for in another one is old */

/* The page hears of it, and asks the server how it is. */
const tell = (event) => document.dispatchEvent(new Event(event));
const isOver = (job) => !["QUEUED", "RUNNING"].includes(job.state);
const pathOf = (job) => `v1/jobs/${encodeURIComponent(job.id)}`;
const nameOf = (job) => job.filename ?? job.id;

/* Does anything change that only the list tells of? */
export const isListNeeded = () =>
    [...rows.values()].some((row) => !isOver(row.job) && !row.stop && !row.upload);
export const isUploading = () => [...rows.values()].some((row) => row.upload);

/* ---- a row ---------------------------------------------------------------------------------- */

function button(text, act, row) {
    const node = el("button", {type: "button", "aria-label": `${text}: ${nameOf(row.job)}`,
        click: async () => {
            node.disabled = true;
            try {
                showProblem(row.problem, null);
                await act(row);
            } catch (problem) {
                showProblem(row.problem, problem);
                setText(byId("told"), String(problem));
            } finally {
                node.disabled = false;
            }
        }}, text);
    return node;
}

/* A link where the browser can fetch it itself: a key it cannot send. */
function downloadOf(row) {
    return hasKey() ? button("Download", download, row) :
        el("a", {class: "button", href: `${pathOf(row.job)}/result`, download: true,
                 "aria-label": `Download: ${nameOf(row.job)}`}, "Download");
}

function newRow(job) {
    const row = {job, upload: null, shown: ""};
    row.state = el("span", {class: "state"});
    row.what = el("p", {class: "what"});
    row.progress = el("progress", {max: "1", value: "0", "aria-label": nameOf(job)});
    row.far = el("span");
    row.running = el("div", {class: "running"}, row.progress, row.far);
    row.buttons = el("div", {class: "row"});
    row.notes = el("div");
    row.problem = el("div", {class: "problem", hidden: true});
    row.node = el("li", {id: job.id}, el("div", {class: "head"},
        el("strong", {title: job.id}, nameOf(job)), row.state), row.what, row.running, row.problem,
        row.notes, row.buttons);
    rows.set(job.id, row);
    show(row);
    return row;
}

function sentOf({job: {upload: {offset, length}}, upload}) {
    const far = length ? `${bytes(offset)} of ${bytes(length)}` : bytes(offset);
    if (!upload)
        return `${far} came, and no more comes from here: if nowhere else sends it, cancel it`;
    return upload.waiting ? `${far} sent; ${upload.waiting.title.toLowerCase()}, trying again …`
                          : `sending, ${far}`;
}

function farOf(row) {
    const {job} = row, {cells, cells_done: done, seconds_left: left} = job.progress;
    if (!job.upload.complete)
        return sentOf(row);
    if (job.state === "QUEUED")
        return "waiting for its turn";
    return cells ? `${count(done)} of ${several(cells, "cell")}` +
        (left === undefined ? "" : `, about ${duration(left)} left`) : "reading the file";
}

function buttonsOf(row) {
    const {job} = row;
    if (!isOver(job))
        return [button("Cancel", end, row)];
    return [...(job.state === "COMPLETE" ? [downloadOf(row)] : []),
            button("Delete", end, row)];
}

/* What does not change while it runs is built once for each state. */
function showState(row) {
    const {job} = row, warnings = job.warnings ?? [], decisions = job.decisions ?? [];
    row.state.className = `state ${job.state.toLowerCase()}`;
    row.notes.replaceChildren(...warnings.map((w) => el("p", {class: "warning"}, w)));
    if (job.labels)
        row.notes.append(labelChart(job.labels, job.progress.cells));
    if (decisions.length)
        row.notes.append(el("details", {open: job.state === "FAILED"},
            el("summary", {}, "What was found in the file"),
            el("ul", {}, ...decisions.map((d) => el("li", {}, d)))));
    showProblem(row.problem, job.error && {title: job.state === "FAILED"
        ? "The file, or what was asked of it, is of no use" : "The server failed",
        detail: job.error.detail ?? job.error.type});
    row.buttons.replaceChildren(...buttonsOf(row));
}

function show(row) {
    const {job} = row, size = job.result ? `, ${bytes(job.result.bytes)}` : "";
    const shown = JSON.stringify([job.state, job.warnings, job.decisions, hasKey()]);
    if (shown !== row.shown)
        showState(row);
    row.shown = shown;
    setText(row.state, STATES[job.state] ?? job.state);
    setText(row.what, `${TASKS[job.task]?.title ?? job.task}, .${job.format}${size}; ` +
            `${job.model.name}; ${time(job.created)}` +
            (isOver(job) && job.progress.cells ? `; ${several(job.progress.cells, "cell")}` : ""));
    row.running.hidden = isOver(job);
    const share = job.upload.complete ? job.progress.fraction
                                      : job.upload.offset / (job.upload.length || 1);
    if (job.upload.complete && !job.progress.cells)
        row.progress.removeAttribute("value"); /* nobody knows yet */
    else
        row.progress.value = share;
    setText(row.far, farOf(row));
}

function remove(row) {
    row.stop?.abort();
    if (row.node.contains(document.activeElement))
        byId("jobs-title").focus();
    row.node.remove();
    rows.delete(row.job.id);
    byId("no-jobs").hidden = rows.size > 0;
}

function update(row, job) {
    const ends = isOver(job) && !isOver(row.job);
    if (job.version < row.job.version)
        return;
    row.job = job;
    show(row);
    if (!ends)
        return;
    setText(byId("told"), `${nameOf(job)}: ${STATES[job.state]}`);
    tell("work-done");
}

/* ---- what its buttons do --------------------------------------------------------------------- */

async function end(row) {
    if (row.job.state === "COMPLETE" && !confirm(`Delete the result of ${nameOf(row.job)}?`))
        return;
    row.upload?.stop.abort();
    const said = await ask(pathOf(row.job), {method: "DELETE"});
    if (said.deleted)
        remove(row);
    else
        update(row, said);
}

/* With a key: through memory, or the browser's own files where it keeps large ones. */
async function download(row) {
    const response = await call(`${pathOf(row.job)}/result`);
    const named = /filename="([^"]*)"/.exec(response.headers.get("Content-Disposition") ?? "");
    const url = URL.createObjectURL(await response.blob());
    el("a", {href: url, download: named?.[1] ?? `${row.job.id}.${row.job.format}`}).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/* ---- following ------------------------------------------------------------------------------- */

/* Through its events, as long as it runs, they come and somebody looks; then it is the list's. */
async function follow(row) {
    if (row.stop || isOver(row.job) || !row.job.upload.complete || document.hidden ||
        [...rows.values()].filter((r) => r.stop).length >= FOLLOWED)
        return;
    row.stop = new AbortController();
    try {
        for await (const job of jobEvents(row.job.id, row.stop.signal))
            update(row, job);
    } catch { /* the list says whether the server is there, and follows anew */
    } finally {
        row.stop = null;
        if (!isOver(row.job))
            setTimeout(tell, PAUSE_MS, "work-left");
    }
}

/* A job that was made here, and its file: sent, then followed. */
export async function addUpload(job, file) {
    const row = newRow(job), stop = new AbortController();
    row.upload = {stop, waiting: null};
    epoch++;
    byId("jobs").prepend(row.node);
    byId("no-jobs").hidden = true;
    show(row);
    tell("work-begun");
    const onPart = (offset, problem) => {
        row.upload.waiting = problem;
        row.job.upload.offset = offset;
        show(row);
    };
    try {
        const sent = await sendFile(job, file, onPart, stop.signal);
        row.upload = null;
        update(row, sent);
    } catch (problem) {
        row.upload = null;
        show(row);
        if (!stop.signal.aborted)
            showProblem(row.problem, problem);
    }
    if (rows.get(job.id) === row)
        follow(row);
}

/* ---- the list -------------------------------------------------------------------------------- */

/* Asks for it; throws a Problem. */
export async function refresh() {
    const before = epoch, list = await ask(`v1/jobs?limit=${limit}`);
    if (epoch !== before)
        return;
    const there = new Set(list.data.map((job) => job.id));
    for (const row of [...rows.values()])
        if (!there.has(row.job.id) && !row.upload)
            remove(row);
    for (const [i, job] of list.data.entries()) {
        const row = rows.get(job.id) ?? newRow(job);
        if (!row.upload)
            update(row, job);
        if (byId("jobs").children[i] !== row.node)
            byId("jobs").insertBefore(row.node, byId("jobs").children[i] ?? null);
        follow(row);
    }
    byId("no-jobs").hidden = rows.size > 0;
    byId("more-jobs").hidden = !list.has_more || limit >= MOST;
}

/* Another key, other jobs. */
export function forget() {
    epoch++;
    for (const row of [...rows.values()]) {
        row.upload?.stop.abort();
        remove(row);
    }
}

export function listen(again) {
    byId("more-jobs").addEventListener("click", () => {
        limit = Math.min(limit + PAGE, MOST);
        again();
    });
    document.addEventListener("visibilitychange", () => {
        if (document.hidden)
            rows.forEach((row) => row.stop?.abort());
    });
    addEventListener("beforeunload", (event) => {
        if (isUploading())
            event.preventDefault();
    });
}
