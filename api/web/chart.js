/* chart.js - tables of labels with a bar beside each. */
import {bar, count, el, percent, several} from "./dom.js";

/* columns: headings of the label and of the numbers; rows: [label, bar, number, ...], as text. */
export function barTable(caption, [label, ...columns], rows) {
    const heading = (text) => el("th", {scope: "col"}, text);
    const line = ([name, drawn, ...numbers]) =>
        el("tr", {}, el("th", {scope: "row"}, name), el("td", {class: "wide"}, drawn),
           ...numbers.map((n) => el("td", {}, n)));
    return el("table", {class: "chart"}, el("caption", {}, caption),
        el("thead", {}, el("tr", {}, heading(label), el("td", {class: "wide"}),
                           ...columns.map(heading))),
        el("tbody", {}, ...rows.map(line)));
}

/* labels: of a job; n: its cells, those without an answer among them. */
export function labelChart(labels, n) {
    const sorted = [...labels].sort((a, b) => b.cells - a.cells), most = sorted[0]?.cells ?? 1;
    const sum = (key) => labels.reduce((all, label) => all + label[key], 0);
    const answered = sum("cells"), unknown = sum("unknown");
    const caption = `${percent(unknown / (answered || 1))} of ${several(answered, "cell")} ` +
        "unknown: the probability of their best label is below the threshold." +
        (answered < n ? ` ${several(n - answered, "cell")} without an answer.` : "");
    return barTable(caption, ["best label", "cells", "unknown"], sorted.map((s) =>
        [s.label, bar([(s.cells - s.unknown) / most, "sure"], [s.unknown / most, "unsure"]),
         count(s.cells), count(s.unknown)]));
}
