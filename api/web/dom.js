/* dom.js - building the page, and words for numbers.
 *
 * What comes from a file or the server becomes text and never markup: the page's policy refuses
 * scripts that write HTML. */

export const byId = (id) => document.getElementById(id);

/* el("a", {href: "x", hidden: false, click: f}, "text", node): booleans are attributes that are
 * there or not, functions listeners; undefined is left out. */
export function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (typeof value === "function")
            node.addEventListener(name, value);
        else if (typeof value === "boolean")
            node.toggleAttribute(name, value);
        else if (value !== undefined)
            node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
}

/* Only where it differs, so that nothing is read out twice or loses its selection. */
export function setText(node, text) {
    if (node.textContent !== text)
        node.textContent = text;
}

export function options(select, pairs) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, text]) => el("option", {value}, text)));
    if (pairs.some(([value]) => value === before))
        select.value = before;
}

/* A bar of parts, [share of the width, class]; for the eye, the numbers stand beside it. */
export function bar(...parts) {
    const whole = el("div", {class: "bar", "aria-hidden": "true"});
    for (const [share, kind] of parts.filter(([n]) => n)) {
        const part = el("div", {class: kind});
        part.style.width = `${100 * share}%`;
        whole.append(part);
    }
    return whole;
}

/* An RFC 9457 problem, or any error, in a box; null hides it. */
export function showProblem(box, problem) {
    box.hidden = !problem;
    if (!problem)
        return box.replaceChildren();
    const errors = problem.errors ?? [];
    const places = errors.length === 1 && problem.detail.startsWith(errors[0].pointer) ? [] :
        errors.map((e) => el("li", {}, el("code", {}, e.pointer || "the request"), ` ${e.detail}`));
    box.replaceChildren(el("strong", {}, problem.title ?? "Something went wrong in this page"),
                        el("p", {}, problem.detail ?? String(problem)));
    if (places.length)
        box.append(el("ul", {}, ...places));
    if (problem.instance)
        box.append(el("small", {}, `request ${problem.instance}`));
}

/* ---- words ---- */

export const count = (n) => Number(n).toLocaleString("en");
export const several = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
export const number = (n, digits = 3) => n?.toFixed(digits) ?? "not known";

export function percent(share) {
    const p = 100 * share;
    return p > 0 && p < 1 ? "under 1 %" : p < 100 && p > 99 ? "over 99 %" : `${Math.round(p)} %`;
}

export function bytes(n) {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    let i = 0;
    for (; n >= 1000 && i < units.length - 1; i++)
        n /= 1000;
    return `${i && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

export function duration(s) {
    const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
    const [size, unit] = units.find(([n]) => s >= 1.5 * n) ?? units.at(-1);
    return several(Math.max(1, Math.round(s / size)), unit);
}

export const time = (iso) =>
    new Date(iso).toLocaleString([], {dateStyle: "medium", timeStyle: "short"});

/* ---- the same with curl ---- */

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/* args: each a list of words, one line each; the key stays where it is. */
export function curlCommand(path, args, hasKey) {
    const all = hasKey ? [["-H", null], ...args] : args;
    const words = all.map((line) => line.map((word) =>
        word === null ? '"Authorization: Bearer $SCDIVA_API_KEY"' :
        /^[\w@%+=:,./-]+$/.test(word) ? word : quote(word)).join(" "));
    return ["curl -sS", ...words, quote(new URL(path, document.baseURI).href)].join(" \\\n     ");
}

export function showCurl(box, commands) {
    const text = commands.join("\n\n");
    const copy = el("button", {type: "button", click: async () => {
        try {
            await navigator.clipboard.writeText(text);
            setText(copy, "Copied");
        } catch { /* no clipboard without TLS: selected, it is one keystroke away */
            getSelection().selectAllChildren(pre);
            setText(copy, "Selected: copy it");
        }
    }}, "Copy");
    const pre = el("pre", {tabindex: "0"}, text);
    box.replaceChildren(box.firstElementChild, pre, copy);
    box.hidden = false;
}
