"use strict";
// All data is set as textContent or as a number; nothing here parses markup.
document.documentElement.classList.add("js");
const data = JSON.parse(document.getElementById("data").textContent);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// ---- tooltip: one box for charts and tokens ----
const tip = document.getElementById("tip");

function showTip(text, box) {
  tip.textContent = text;
  tip.hidden = false;
  const width = tip.offsetWidth, height = tip.offsetHeight;
  const left = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
  const above = box.top - height - 8;
  tip.style.left = left + "px";
  tip.style.top = (above < 4 ? box.bottom + 8 : above) + "px";
}

let showAgain = null;

function hideTip() { tip.hidden = true; showAgain = null; }

// Focus scrolls the page until the focussed element is in view, so its tooltip has to move with it.
function scrolled() {
  const isFocussed = document.activeElement && document.activeElement.hasAttribute("aria-describedby");
  if (isFocussed && showAgain) showAgain(); else hideTip();
}

function addTip(element, lines) {
  function show() {
    element.setAttribute("aria-describedby", "tip");
    showTip(lines.join("\n"), element.getBoundingClientRect());
    showAgain = show;
  }
  function leave() { element.removeAttribute("aria-describedby"); hideTip(); }
  element.addEventListener("pointerenter", show);
  element.addEventListener("focus", show);
  element.addEventListener("pointerleave", leave);
  element.addEventListener("blur", leave);
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", scrolled, { passive: true });

// ---- curves: the visible lines, and the point nearest to the pointer ----
const keys = [...document.querySelectorAll(".key")];
const radios = [...document.querySelectorAll("input[name=aggregate]")];

function isPressed(button) { return button.getAttribute("aria-pressed") === "true"; }

function refreshLines() {
  const shown = new Set(keys.filter(isPressed).map((button) => button.dataset.key));
  const chosen = radios.find((radio) => radio.checked);
  document.querySelectorAll(".chart [data-key]").forEach((group) => {
    const view = group.dataset.view;
    const isShown = shown.has(group.dataset.key) && (!chosen || view === "" || view === chosen.value);
    group.toggleAttribute("hidden", !isShown);
  });
}

function focusLine(key) {
  document.querySelectorAll("svg.chart").forEach((chart) => {
    chart.classList.toggle("focussed", key !== null);
    chart.querySelectorAll("[data-key]").forEach((group) => group.classList.toggle("on", group.dataset.key === key));
  });
}

keys.forEach((button) => {
  button.addEventListener("click", () => { button.setAttribute("aria-pressed", String(!isPressed(button))); refreshLines(); });
  button.addEventListener("pointerenter", () => { if (isPressed(button)) focusLine(button.dataset.key); });
  button.addEventListener("pointerleave", () => focusLine(null));
});
radios.forEach((radio) => radio.addEventListener("change", refreshLines));

function watchPoints(chart) {
  let near = null;
  function choose(marker) {
    if (near) near.classList.remove("near");
    near = marker;
    if (!marker) { focusLine(null); hideTip(); return; }
    marker.classList.add("near");
    focusLine(marker.parentNode.dataset.key);
    showTip(marker.dataset.tip, marker.getBoundingClientRect());
  }
  function follow(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    let best = null, least = 26;
    chart.querySelectorAll(".line:not([hidden]) .marker").forEach((marker) => {
      const distance = Math.hypot(marker.dataset.x - point.x, marker.dataset.y - point.y);
      if (distance < least) { best = marker; least = distance; }
    });
    if (best !== near) choose(best);
  }
  chart.addEventListener("pointermove", follow);
  chart.addEventListener("pointerdown", follow);
  chart.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") choose(null); });
}
document.querySelectorAll("svg.chart").forEach(watchPoints);

// ---- step trees ----
const glyphs = { "\n": "\u23ce\n", "\t": "\u21e5\t", "\r": "\u240d", "\u2028": "\u21b5", "\u2029": "\u00b6" };
const topEntropy = Math.max(1, ...data.trees.map((tree) => Math.max(tree.max_entropy, tree.tau)));

function visible(text) { return text === "" ? "\u2205" : text.replace(/[\n\t\r\u2028\u2029]/g, (sign) => glyphs[sign]); }

function quoted(text) { return "\u201c" + visible(text).trimEnd() + "\u201d"; }

function tokenElement(token, isForced, tree) {
  const [text, entropy, logprob, runnerUp, isAnchor] = token;
  const element = make("span", "tok" + (isAnchor ? " anchor" : "") + (isForced ? " forced" : ""), visible(text));
  element.style.setProperty("--h", Math.min(1, entropy / topEntropy).toFixed(3));
  if (isAnchor) element.tabIndex = 0;
  const kind = (isAnchor ? "anchor " : "token ") + quoted(text) + (isForced ? ", second choice, taken at a fork" : "");
  const other = (isForced ? "most probable alternative " : "runner-up ") + quoted(runnerUp);
  const lines = [kind, "entropy " + entropy.toFixed(2) + " nats (threshold " + tree.tau.toFixed(2) + ")", "probability " + Math.exp(logprob).toFixed(3), other];
  addTip(element, lines);
  return element;
}

function stepElement(step) {
  const row = make("div", "step"), bar = make("span", "mini"), label = step.label;
  const lines = ["a step of " + step.num_tokens + " tokens ends here"];
  row.append(bar);
  if (label) {
    const fill = make("i", "fill"), span = make("i", "span");
    fill.style.width = 100 * label.value + "%";
    span.style.left = 100 * label.low + "%";
    span.style.width = 100 * (label.high - label.low) + "%";
    bar.append(fill, span);
    const text = make("span");
    text.append(make("b", "", label.num_correct + "/" + label.num_total + " right"));
    const value = label.value.toFixed(2), range = "[" + label.low.toFixed(2) + ", " + label.high.toFixed(2) + "]";
    text.append(" \u00b7 " + value, make("span", "more", " " + range));
    row.append(text);
    lines.push(label.num_correct + " of " + label.num_total + " leaves right", "label " + value + ", 95 % interval " + range);
  } else {
    row.append(make("span", "", "no label"));
  }
  const prm = make("span", "prm");
  if (step.score === null) {
    prm.textContent = "not scored";
  } else {
    const mark = make("i", "score");
    mark.style.left = 100 * Math.min(1, Math.max(0, step.score)) + "%";
    bar.append(mark);
    prm.append("PRM ", make("b", "", step.score.toFixed(2)));
  }
  lines.push(prm.textContent);
  row.append(prm);
  addTip(row, lines);
  return row;
}

function leafElement(leaf, idx) {
  const kind = leaf.is_correct ? "right" : "wrong";
  const answer = leaf.answer === null ? "no answer" : visible(leaf.answer);
  const element = make("span", "leaf " + kind, (leaf.is_correct ? "\u2713 right: " : "\u2717 wrong: ") + answer + " ");
  element.append(make("small", "", "leaf " + idx + (leaf.finish === "length" ? ", cut at the token limit" : "")));
  return element;
}

function pieces(node) {
  // The tokens of a node, cut at the ends of labels: [from, to, labels that end at `to`].
  const ends = [...new Set(node.steps.map((step) => step.after).concat(node.tokens.length))];
  return ends.map((to, idx) => [idx ? ends[idx - 1] : 0, to, node.steps.filter((step) => step.after === to)]);
}

function nodeElement(node, tree) {
  const item = make("li", node.is_leaf ? "end" : "");
  pieces(node).forEach(([from, to, steps], idx, all) => {
    const piece = make("div", "piece"), body = make("div", "body"), text = make("div", "toks"), side = make("div", "side");
    const hasToggle = idx === 0 && !node.is_leaf;
    body.append(hasToggle ? make("button", "toggle") : make("span", "indent"), text);
    node.tokens.slice(from, to).forEach((token, offset) => text.append(tokenElement(token, node.is_forced && from + offset === 0, tree)));
    if (from === to) text.append(make("span", "ghost", node.is_leaf ? "\u2205" : "forks at the first token"));
    if (node.leaf && idx === all.length - 1) text.append(" ", leafElement(node.leaf, node.branch_idx));
    steps.forEach((step) => side.append(stepElement(step)));
    piece.append(body, side);
    item.append(piece);
  });
  return item;
}

function setOpen(button, isOpen) {
  const item = button.closest("li");
  button.setAttribute("aria-expanded", String(isOpen));
  button.textContent = isOpen ? "\u2212" : "+";
  item.querySelector(":scope > ul").hidden = !isOpen;
  item.querySelector(":scope > .rail").hidden = !isOpen;
  item.querySelector(":scope > .below").hidden = isOpen;
}

function isOpen(button) { return button.getAttribute("aria-expanded") === "true"; }

function addFork(item, node) {
  const button = item.querySelector(".toggle"), children = make("ul");
  const count = node.num_correct + " of " + node.num_leaves + " leaves right";
  button.type = "button";
  button.setAttribute("aria-label", "fork, " + count + " below");
  button.addEventListener("click", () => setOpen(button, !isOpen(button)));
  item.append(make("i", "rail"), make("p", "below", "collapsed: " + count + " below"), children);
  setOpen(button, true);
  return children;
}

function treeElement(tree) {
  const frame = make("div", "tree"), root = make("ul"), lists = [];
  frame.style.setProperty("--depth", Math.max(1, tree.depth));
  tree.nodes.forEach((node, idx) => {
    const item = nodeElement(node, tree);
    (node.parent === null ? root : lists[node.parent]).append(item);
    if (!node.is_leaf) lists[idx] = addFork(item, node);
  });
  frame.append(root);
  frame.addEventListener("keydown", moveBetweenForks);
  return frame;
}

function moveBetweenForks(event) {
  if (!event.target.classList.contains("toggle")) return;
  const all = [...event.currentTarget.querySelectorAll(".toggle")].filter((button) => button.offsetParent !== null);
  const here = all.indexOf(event.target);
  const targets = { ArrowDown: all[here + 1], ArrowUp: all[here - 1], Home: all[0], End: all[all.length - 1] };
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") setOpen(event.target, event.key === "ArrowRight");
  else if (!(event.key in targets)) return;
  else if (targets[event.key]) targets[event.key].focus();
  event.preventDefault();
}

function headElement(tree) {
  const card = make("div", "card");
  card.append(make("p", "question", tree.question));
  const saved = 1 - tree.num_tokens / tree.num_path_tokens;
  const shared = tree.num_path_tokens > 0 ? ", " + (100 * saved).toFixed(0) + "\u00a0% fewer than the " + tree.num_path_tokens.toLocaleString("en") + " of separate paths" : "";
  card.append(make("p", "", "right answer: " + tree.reference));
  const leaves = tree.num_correct + " of " + tree.num_leaves + " leaves right";
  card.append(make("p", "fine", leaves + "; " + tree.num_tokens.toLocaleString("en") + " sampled tokens" + shared + "."));
  if (tree.prompt !== null) {
    const details = make("details");
    details.append(make("summary", "", "The prompt that the policy sees"), make("pre", "", visible(tree.prompt)));
    card.append(details);
  }
  return card;
}

function showTree(tree) {
  hideTip();
  document.getElementById("tau").textContent = tree.tau.toFixed(2);
  document.getElementById("problem").replaceChildren(headElement(tree), treeElement(tree));
}

function setAll(isOpenNow) { document.querySelectorAll("#problem .toggle").forEach((button) => setOpen(button, isOpenNow)); }

if (data.trees.length) {
  const pick = document.getElementById("pick");
  data.trees.forEach((tree, idx) => {
    const option = make("option", "", tree.problem_id + " (" + tree.num_correct + " of " + tree.num_leaves + " right)");
    option.value = idx;
    pick.append(option);
  });
  pick.addEventListener("change", () => showTree(data.trees[pick.value]));
  document.getElementById("top-entropy").textContent = topEntropy.toFixed(1);
  document.getElementById("expand").addEventListener("click", () => setAll(true));
  document.getElementById("collapse").addEventListener("click", () => setAll(false));
  showTree(data.trees[0]);
}
