/* cell.js - genes and values that were typed in, and the types that the cell may have. */
import {ask, hasKey} from "./api.js";
import {barTable} from "./chart.js";
import {bar, byId, curlCommand, el, number, options, several, showCurl, showProblem} from
    "./dom.js";
import {EXAMPLE} from "./example.js";

const TOP = 5, PATH = "v1/annotations";
let heads = []; /* [model, head] by name, of all models */

/* {genes, values}, or a problem that names the line. */
function readCell(text) {
    const genes = [], values = [], errors = [];
    for (const [i, line] of text.split("\n").entries()) {
        const words = line.trim().split(/[\s,;]+/).filter((w) => w);
        if (!words.length)
            continue;
        const value = Number(words[1]);
        if (words.length !== 2 || !Number.isFinite(value))
            errors.push({pointer: `line ${i + 1}`,
                         detail: "must be a gene and a number, with a blank between"});
        genes.push(words[0]);
        values.push(value);
    }
    const problem = {title: "Some lines cannot be read", errors: errors.slice(0, 8),
                     detail: `${several(errors.length, "line")}, the first of them:`};
    return errors.length ? {problem} : {genes, values};
}

function answerOf({data: [item], head, warnings}) {
    const id = item.ontology_id ? ` (${item.ontology_id})` : "";
    const said = !item.unknown ? item.label + id :
        `Unknown: the best label is below the threshold of ${number(head.threshold, 2)}.`;
    const used = [`${several(item.genes_known, "gene")} known to the model`,
                  `${item.genes_unknown} unknown`,
                  item.genes_unused && `${item.genes_unused} not measured in the head's training`,
                  item.genes_truncated && `${item.genes_truncated} beyond the longest cell`];
    return [el("p", {class: "verdict"}, said),
            barTable(used.filter((text) => text).join(", "), ["label", "probability"],
                     item.top.map(({label, probability: p}) =>
                         [label, bar([p, item.unknown ? "unsure" : "sure"]), number(p)])),
            ...warnings.map((w) => el("p", {class: "warning"}, w.detail))];
}

async function nameCell(event) {
    event.preventDefault();
    const total = byId("cell-total").value, [model, head] = heads[byId("cell-head").value];
    const {problem, ...cell} = readCell(byId("cell-genes").value);
    byId("cell-answer").replaceChildren();
    showProblem(byId("cell-problem"), problem ?? null);
    if (problem)
        return;
    if (total)
        cell.total = Number(total);
    const body = JSON.stringify({model, head, input: byId("cell-input").value, top_k: TOP,
                                 cells: [cell]});
    const headers = {"Content-Type": "application/json"};
    showCurl(byId("cell-curl"), [curlCommand(PATH, [["-H", "Content-Type: application/json"],
                                                    ["-d", body]], hasKey())]);
    byId("cell-ask").disabled = true;
    try {
        const answer = await ask(PATH, {method: "POST", headers, body});
        byId("cell-answer").replaceChildren(...answerOf(answer));
        document.dispatchEvent(new Event("work-done"));
    } catch (error) {
        showProblem(byId("cell-problem"), error);
    } finally {
        byId("cell-ask").disabled = false;
    }
}

/* Without a head that names types there is nothing to ask. */
export function showModels(models) {
    heads = models.flatMap((m) => m.heads.filter((h) => h.task === "annotation")
        .map((h) => [m.name, h.name]));
    options(byId("cell-head"), heads.map(([m, h], i) =>
        [String(i), models.length > 1 ? `${m}: ${h}` : h]));
    byId("cell-head-choice").hidden = heads.length < 2;
    byId("cell").hidden = !heads.length;
}

export function listen() {
    byId("cell-form").addEventListener("submit", nameCell);
    byId("cell-example").addEventListener("click", () => {
        byId("cell-genes").value = EXAMPLE;
        byId("cell-input").value = "log1p_cp10k";
        byId("cell-total").value = "";
        byId("cell-form").requestSubmit();
    });
}
