/* page.js - puts the page's parts together, and asks the server how it is while somebody looks. */
import {hasKey, setKey} from "./api.js";
import * as cell from "./cell.js";
import {byId, setText, showProblem} from "./dom.js";
import * as jobs from "./jobs.js";
import * as server from "./server.js";
import * as start from "./start.js";

const BUSY_MS = 2000, IDLE_MS = 10000, MODELS_MS = 60000;
let timer = 0, asking = false, again = false, silent = false, keyless = false, limits = null;
let asked = -Infinity; /* when the models were asked for; they may be others after a silence */

function showState(text, kind) {
    const node = byId("state");
    setText(node, text);
    node.className = `state ${kind}`;
}

/* Something of the server in a box of its own: what goes wrong with it is said there. */
async function into(box, ask) {
    try {
        await ask();
        showProblem(byId(box), null);
    } catch (problem) {
        /* No answer stands on top already; a key is asked for. */
        showProblem(byId(box), [0, 401].includes(problem.status) ? null : problem);
    }
}

async function refreshServer() {
    if (performance.now() - asked > MODELS_MS) {
        const models = await server.refreshModels();
        asked = performance.now();
        if (models) {
            limits = models[0].limits;
            start.showModels(models);
            cell.showModels(models);
        }
    }
    await server.refreshLive(limits);
}

function onSilence({title = "The server does not answer"}) {
    silent = true;
    asked = -Infinity;
    showState(`${title.toLowerCase()}; trying again`, "error");
    clearTimeout(timer);
    timer = setTimeout(tick, BUSY_MS);
}

async function askAll() {
    try {
        const said = await server.readiness();
        silent = false;
        showState(said, said === "ready" ? "complete" : "queued");
    } catch (problem) {
        return onSilence(problem);
    }
    if (keyless || silent)
        return;
    await Promise.all([into("server-problem", refreshServer),
                       into("jobs-problem", jobs.refresh)]);
    if (!keyless)
        document.body.classList.remove("closed");
}

/* One round at a time; what is wanted meanwhile is one more. */
async function tick() {
    clearTimeout(timer);
    again = asking;
    if (asking || document.hidden)
        return;
    asking = true;
    try {
        await askAll();
    } finally {
        asking = false;
        clearTimeout(timer);
        timer = setTimeout(tick, again ? 0 : silent || jobs.isListNeeded() ? BUSY_MS : IDLE_MS);
    }
}

/* ---- keys ------------------------------------------------------------------------------------ */

function showKeyPanel(needed) {
    keyless = needed;
    byId("key-panel").hidden = !needed;
    document.body.classList.add("closed");
}

function askForKey(event) {
    showKeyPanel(true);
    setText(byId("key-why"), hasKey() ? `The key is not accepted: ${event.detail}.`
                                      : "Whoever runs this server hands them out.");
    byId("key").focus();
}

function useKey(event) {
    event.preventDefault();
    const key = byId("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) /* a header can hold nothing else */
        return setText(byId("key-why"), "A key has letters, digits and signs, without blanks.");
    byId("key").value = "";
    changeKey(key);
}

function changeKey(key) {
    setKey(key);
    asked = -Infinity;
    showKeyPanel(false);
    byId("forget-key").hidden = !key;
    jobs.forget();
    tick();
}

document.addEventListener("key-needed", askForKey);
document.addEventListener("no-answer", onSilence);
byId("key-form").addEventListener("submit", useKey);
byId("forget-key").addEventListener("click", () => changeKey(""));
byId("forget-key").hidden = !hasKey();
document.addEventListener("visibilitychange", tick);
start.listen();
cell.listen();
jobs.listen(tick);
for (const event of ["work-begun", "work-done", "work-left"])
    document.addEventListener(event, tick);
tick();
