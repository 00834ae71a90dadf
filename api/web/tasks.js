/* tasks.js - what a file can be sent for, and the fields of each task: parameters of POST /v1/jobs.
 *
 *   [parameter, label, hint, kind]
 *
 * kind: "text", "needed" (a text that has to be there), "check", the attributes of a number, or a
 * function of the model that gives the [value, text] of a choice. */
import {el, options} from "./dom.js";

const ALL = ["h5ad", "csv", "tsv", "npy"], TABLES = ["h5ad", "csv", "tsv"];

const heads = (task) => (model) => model.heads.filter((h) => h.task === task)
    .map((h) => [h.name, h.name]);
const contexts = (model) => [["", "the nearest to the controls"],
    ...model.heads.flatMap((h) => h.contexts ?? [])
        .map((c) => [c.name, `${c.name} (${c.direction})`])];

export const TASKS = {
    annotate: {
        title: "Name cell types", formats: ALL,
        note: "The best label of each cell, its probability, and whether that is too low to say.",
        fields: [
            ["head", "Head", "", heads("annotation")],
            ["threshold", "Unknown below", "a probability; empty: the head's own, 0: never",
             {min: 0, max: 1, step: "any"}],
            ["embeddings", "Embeddings as well", "", "check"]],
    },
    embed: {
        title: "Embed", formats: ALL, fields: [],
        note: "A vector for each cell, for neighbours, clusters and maps.",
    },
    perturb: {
        title: "Predict perturbations", formats: ALL,
        note: "The cells of the file are the controls. The result is a table of every gene's " +
              "change, with simple baselines beside it: look at them first.",
        fields: [
            ["perturbations", "Perturbations", "KLF1, KLF1+BAK1: + within, a comma between",
             "needed"],
            ["head", "Head", "", heads("perturbation")],
            ["direction", "Direction", "", () => [["", "as in the context"],
                ["activation", "activation"], ["knockdown", "knock-down"]]],
            ["context", "Context", "", contexts],
            ["control_column", "Column of the controls", "of obs; empty: all cells are", "text"],
            ["control", "Its word for a control", "empty: control", "text"],
            ["top_genes", "Genes of each", "those that change most; empty: all",
             {min: 1, max: 1000000, step: 1}]],
    },
    integrate: {
        title: "Integrate batches", formats: ALL,
        note: "Embeddings, and how well the batches mix in them. The model should be one that " +
              "was fine-tuned for integration: its card says so.",
        fields: [
            ["batch_column", "Column of the batches", "of obs", "text"],
            ["label_column", "Column of the cell types", "of obs: do they stay apart?", "text"],
            ["uncorrected", "Compare with", "", (model, models) => [["", "no other model"],
                ...models.filter((m) => m !== model).map((m) => [m.name, m.name])]]],
    },
    impute: {
        title: "Impute", formats: ALL,
        note: "What a gene would have where it is expressed: genes that are off get a value too.",
        fields: [
            ["genes", "Genes", "CD3D, IL7R; empty: every gene of the file", "text"],
            ["pooling", "Pooling", "", () => [["", "visible"],
                ["clean", "clean: sees what is hidden, for comparison"]]]],
    },
    grn: {
        title: "Gene associations", formats: TABLES,
        note: "What goes with a regulator over these cells. Associations, never causes; plain " +
              "co-expression stands beside them.",
        fields: [
            ["regulators", "Regulators", "STAT1, IRF7: 32 at most", "needed"],
            ["top_k", "Targets of each", "empty: 20", {min: 1, max: 1000000, step: 1}],
            ["layers", "Layers", "0, 1: numbers from 0; empty: all", "text"],
            ["heads", "Attention heads", "numbers from 0; empty: all", "text"]],
    },
};

export const FILE_FIELDS = [
    ["layer", "Matrix", "X, raw/X or layers/NAME; empty: by what they hold", "text"],
    ["gene_column", "Column of the gene names", "of var; empty: by what it holds", "text"],
    ["genome", "Genome", "of a 10x file with several", "text"],
    ["genes_in", "A table's genes are in", "", () => [["", "found out"], ["columns", "columns"],
        ["rows", "rows"]]],
    ["on_error", "Cells without a known gene", "", () => [["", "are left unanswered"],
        ["fail", "end the job"]]],
    ["force", "Go on where under half of the counts is on known genes", "", "check"],
    ["overwrite", "Replace results of ours in the file", "", "check"],
];

/* integrate needs what embed needs. */
export const tasksOf = (model) => Object.keys(TASKS)
    .filter((task) => model.tasks.includes(task === "integrate" ? "embed" : task));

function control([name, , , kind], id, model, models) {
    if (typeof kind === "function") {
        const select = el("select", {id, name});
        options(select, kind(model, models));
        return select;
    }
    if (typeof kind === "object")
        return el("input", {id, name, type: "number", ...kind});
    return el("input", {id, name, type: kind === "check" ? "checkbox" : "text",
                        required: kind === "needed", spellcheck: "false", autocapitalize: "off"});
}

/* The fields in `box`; what was typed into one of the same name stays. A choice of one is none. */
export function showFields(box, fields, model, models) {
    const before = new Map([...box.querySelectorAll("[name]")].map((c) => [c.name, c]));
    box.replaceChildren(...fields.map((field) => {
        const [name, label, hint, kind] = field, id = `field-${name}`;
        const node = control(field, id, model, models), old = before.get(name);
        if (old && old.type === node.type) {
            node.checked = old.checked;
            if (old.tagName === "INPUT" || [...node.options].some((o) => o.value === old.value))
                node.value = old.value;
        }
        const text = el("label", {for: id}, label);
        if (hint)
            text.append(el("small", {}, hint));
        return kind === "check" ? el("div", {class: "check"}, node, text)
                                : el("div", {hidden: node.options?.length === 1}, text, node);
    }));
}

/* Of a form as it stands: what is empty is the server's to decide. */
export function queryOf(form, filename) {
    const query = new URLSearchParams();
    for (const c of form.querySelectorAll("select[name], input[name]")) {
        const value = c.type === "checkbox" ? (c.checked ? "true" : "") : c.value.trim();
        if (value)
            query.set(c.name, value);
    }
    query.set("filename", filename);
    return query;
}
