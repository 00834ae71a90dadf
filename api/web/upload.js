/* upload.js - a file to the server, in parts.
 *
 * The job is there before its bytes are, so that what is wrong with the request is said at once;
 * each part is on the server's disk when it is answered, so that a connection that breaks, or a
 * server that starts again, costs one part: the job knows how much it has. */
import {ask, Problem} from "./api.js";

const SMALLEST = 1 << 18, LARGEST = 1 << 24, PART_MS = 1000, PAUSE_MS = 2000;
/* The network, or a server that starts, stops or is busy. */
const PASSING = [0, 409, 429, 502, 503, 504];
const TYPE = {"Content-Type": "application/octet-stream"};

/* The job, without a byte of its file yet. */
export function createJob(file, query) {
    const headers = {...TYPE, "Upload-Length": String(file.size)};
    return ask(`v1/jobs?${query}`, {method: "POST", headers});
}

const pause = (signal) => new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, PAUSE_MS);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
});

async function read(file, from, n) {
    try {
        return await file.slice(from, from + n).arrayBuffer();
    } catch {
        throw new Problem(null, "The file can no longer be read",
                          "It was changed, moved or deleted since it was chosen: choose it again.");
    }
}

/* Sends what is missing; tell(bytes there, problem that is being waited out or null). The job as it
 * is then, which somebody else may have canceled meanwhile. */
export async function sendFile(job, file, tell, signal) {
    let n = SMALLEST, path = `v1/jobs/${encodeURIComponent(job.id)}`, broken = false;
    while (!job.upload.complete && job.state === "QUEUED") {
        const offset = job.upload.offset, began = performance.now();
        try {
            if (broken) { /* how far did it come? */
                job = await ask(path);
                broken = false;
                continue;
            }
            const body = await read(file, offset, n);
            const headers = {...TYPE, "Upload-Offset": String(offset)};
            job = await ask(path, {method: "PATCH", headers, body, signal});
            n = performance.now() - began < PART_MS ? Math.min(2 * n, LARGEST)
                                                    : Math.max(n / 2, SMALLEST);
            tell(job.upload.offset, null);
        } catch (problem) {
            if (signal.aborted || !PASSING.includes(problem.status))
                throw problem;
            tell(offset, problem);
            broken = true;
            await pause(signal);
        }
    }
    return job;
}
