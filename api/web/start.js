/* start.js - the form that makes a job of a file. */
import {hasKey} from "./api.js";
import {byId, bytes, curlCommand, options, setText, showCurl, showProblem} from "./dom.js";
import {addUpload} from "./jobs.js";
import {FILE_FIELDS, queryOf, showFields, TASKS, tasksOf} from "./tasks.js";
import {createJob} from "./upload.js";

const form = byId("file-form"), file = byId("file"), drop = byId("drop");
let models = [];

const chosen = () => models.find((m) => m.name === byId("model").value) ?? models[0];

function showTask() {
    const task = TASKS[byId("task").value];
    options(byId("format"), task.formats.map((f) => [f, `.${f}`]));
    setText(byId("task-note"), task.note);
    showFields(byId("fields"), task.fields, chosen(), models);
}

function showModel() {
    options(byId("task"), tasksOf(chosen()).map((t) => [t, TASKS[t].title]));
    showFields(byId("file-fields"), FILE_FIELDS, chosen(), models);
    showTask();
}

export function showModels(list) {
    models = list;
    options(byId("model"), models.map((m) => [m.name, m.name]));
    byId("model-choice").hidden = models.length < 2;
    byId("start").disabled = false;
    showModel();
}

function tooLarge(size) {
    const most = chosen().limits.max_job_file_bytes;
    return size > most && {title: "The file is too large",
        detail: `It has ${bytes(size)}; this server takes ${bytes(most)} at most (job-upload-mb).`};
}

async function start(event) {
    event.preventDefault();
    const one = file.files[0], query = queryOf(form, one.name);
    const problem = tooLarge(one.size);
    showProblem(byId("file-problem"), problem || null);
    if (problem)
        return;
    showCurl(byId("file-curl"), [
        curlCommand(`v1/jobs?${query}`, [["-H", "Content-Type: application/octet-stream"],
                                         ["--data-binary", `@${one.name}`]], hasKey()),
        `# then, with the "id" of the answer\n` +
        curlCommand("v1/jobs/ID", [["-H", "Prefer: wait=600"]], hasKey()),
        curlCommand("v1/jobs/ID/result", [["-OJ"]], hasKey())]);
    byId("start").disabled = true;
    try {
        addUpload(await createJob(one, query), one);
    } catch (error) {
        showProblem(byId("file-problem"), error);
    } finally {
        byId("start").disabled = false;
    }
}

/* Anywhere on the page: elsewhere than in it, the browser would leave for the file. */
function dropped(event) {
    const {files, items} = event.dataTransfer;
    const say = (title, detail) => showProblem(byId("file-problem"), {title, detail});
    event.preventDefault();
    drop.classList.remove("over");
    if (files.length > 1)
        say("One file at a time", `${files.length} were dropped: start one, then drop the next.`);
    else if (items[0]?.webkitGetAsEntry?.()?.isDirectory)
        say("That is a folder", "Of a 10x matrix, pack its three files as .zip or .tar.gz.");
    else if (files.length) {
        file.files = files;
        showProblem(byId("file-problem"), null);
    }
}

export function listen() {
    form.addEventListener("submit", start);
    byId("model").addEventListener("change", showModel);
    byId("task").addEventListener("change", showTask);
    file.addEventListener("change", () => showProblem(byId("file-problem"), null));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", dropped);
    document.addEventListener("dragenter", () => drop.classList.add("over"));
    document.addEventListener("dragleave", ({relatedTarget}) =>
        relatedTarget || drop.classList.remove("over"));
}
