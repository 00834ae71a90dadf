/* server.js - what runs here: models, their heads and limits; the queue and the cache in words. */
import {ask, call} from "./api.js";
import {byId, bytes, count, el, number, percent, setText, several} from "./dom.js";

/* ---- the models ------------------------------------------------------------------------------ */

const fact = (name, ...said) => el("div", {}, el("dt", {}, name), el("dd", {}, ...said));

function annotationOf(head) {
    const e = head.evaluation;
    const quality = !e ? "not known: its makers do not say" :
        `${several(e.cells ?? 0, "cell")}: accuracy ${number(e.accuracy)}, ` +
        `macro-F1 ${number(e.macro_f1)}, calibration error ${number(e.ece)}`;
    return [fact("Labels", head.labels.map((l) => l.label).join(", ")),
            fact("On cells held out", quality),
            fact("Unknown below", `a probability of ${number(head.threshold, 2)}`)];
}

/* The model beside the best of the simple baselines, by the same measure. */
function contextOf({name, direction, perturbations, evaluation: {model, ...others}}) {
    const [best, score] = Object.entries(others)
        .reduce((a, b) => b[1].pearson_delta > a[1].pearson_delta ? b : a);
    return fact(`${name}, ${direction}`,
        `${several(perturbations.length, "perturbation")}, each left out in turn: correlation ` +
        `with the measured change ${number(model.pearson_delta, 2)}, of the best baseline ` +
        `(${best.replaceAll("_", " ")}) ${number(score.pearson_delta, 2)}` +
        (score.pearson_delta >= model.pearson_delta ? ": no better" : ""));
}

function headOf(head) {
    const facts = head.task !== "perturbation" ? annotationOf(head) :
        [fact("Answers for", several(head.readout_genes, "gene")), ...head.contexts.map(contextOf)];
    return el("details", {open: true}, el("summary", {}, `Head ${head.name} (${head.task})`),
              el("dl", {class: "facts"}, ...facts, fact("Digest", el("code", {}, head.digest))));
}

function modelOf(model) {
    const l = model.limits, devices = model.devices ?? [];
    const states = { lost: ": failed", silent: ": does not answer" };
    const where = devices.map((d) => d.device + (states[d.state] || ""));
    return el("article", {}, el("h3", {}, model.name),
        ...(model.trained ? [] : [el("p", {class: "warning"},
            "Random weights, for tests: its answers mean nothing.")]),
        el("dl", {class: "facts"},
           fact("Computes on", `${model.device_name} (${where.join(", ")}), ${model.isa}`),
           fact("Precision", model.precision),
           fact("Size", `${several(model.parameters, "parameter")}; embeddings of ` +
                `${count(model.hidden_dim)} numbers`),
           fact("Genes", `${count(model.genes)} known; of a cell the first ` +
                `${count(model.max_gene_len)} are used`),
           fact("Files", `up to ${bytes(l.max_job_file_bytes)}; ${count(l.max_jobs)} jobs kept`),
           fact("Requests", `up to ${bytes(l.max_body_bytes)}, ${several(l.max_cells, "cell")}`),
           fact("Digest", el("code", {}, model.digest))),
        ...model.heads.map(headOf));
}

let shown = "";

/* {data, limits} of GET /v1/models, shown; whether it is another than before. */
export async function refreshModels() {
    const list = await ask("v1/models"), text = JSON.stringify(list);
    if (text === shown)
        return null;
    shown = text;
    byId("models").replaceChildren(...list.data.map(modelOf));
    const [first] = list.data;
    setText(byId("served"), `${first.name}, ${first.precision}, ${first.device_name}` +
            (list.data.length > 1 ? ` and ${several(list.data.length - 1, "model")} more` : ""));
    return list.data;
}

/* ---- the queue and the cache ----------------------------------------------------------------- */

/* Prometheus text -> [{name, labels, value}] */
function samplesOf(text) {
    return [...text.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)$/gm)].map(([, name, labels, value]) =>
        ({name, value: Number(value),
          labels: Object.fromEntries([...(labels ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)]
              .map(([, key, said]) => [key, said]))}));
}

const REASONS = {queue_full: "the queue was full", too_large: "too large",
                 unauthorized: "no right key", draining: "shutting down",
                 deadline: "past the deadline"};
const JOB_WORDS = {RUNNING: "running", QUEUED: "waiting", COMPLETE: "done", FAILED: "not possible",
                   ERROR: "server errors", CANCELED: "canceled"};

export async function refreshLive(limits) {
    const samples = samplesOf(await ask("metrics", {}, "text"));
    const of = (name) => samples.filter((s) => s.name === name);
    const sum = (name) => of(name).reduce((all, s) => all + s.value, 0);
    /* "3 running, 2 waiting": what is not none, in the order of the words. */
    const listed = (name, label, words) => Object.entries(words)
        .map(([key, word]) => [of(name).find((s) => s.labels[label] === key)?.value, word])
        .filter(([n]) => n).map(([n, word]) => `${count(n)} ${word}`).join(", ") || "none";
    const waiting = sum("scdiva_queue_tokens"), rate = sum("scdiva_engine_tokens_per_second");
    const hits = sum("scdiva_cache_hits_total");
    const asked = hits + sum("scdiva_cache_misses_total") + sum("scdiva_cache_coalesced_total");
    setText(byId("live-queue"), !waiting ? "nothing" : `${several(waiting, "gene token")}, ` +
            `${percent(waiting / limits.max_queue_tokens)} of what the queue takes`);
    setText(byId("live-speed"), !rate ? "nothing computed yet" :
            `about ${count(Math.round(rate))} gene tokens a second, of late`);
    setText(byId("live-cache"), !asked ? "no cell asked for yet" :
            `${percent(hits / asked)} of ${several(asked, "cell")} answered from it`);
    setText(byId("live-jobs"), listed("scdiva_jobs", "state", JOB_WORDS));
    setText(byId("live-refused"), listed("scdiva_rejected_total", "reason", REASONS));
}

/* "ready", or why not; throws where nobody answers. */
export async function readiness() {
    try {
        await call("readyz");
        return "ready";
    } catch (problem) {
        if (problem.status !== 503)
            throw problem;
        return problem.detail;
    }
}
