// The page of one row: what the leaderboard says of it, above the report of its run. `row.html?LAB/ID` names it.

import { h, put } from "./dom.js";
import { table } from "./table.js";

const name = decodeURIComponent(location.search.slice(1));
const app = document.getElementById("app");

function load(source) {
  return new Promise((resolve, reject) => document.head.append(h("script", { src: source, onload: resolve, onerror: () => reject(new Error(source)) })));
}

const wh = ([best, low, high]) => {
  const kwh = (joules) => (joules === null ? "no end" : Number((joules / 3.6e6).toPrecision(4)));
  return low === high ? `${kwh(best)} kWh` : `${kwh(best)} kWh (${kwh(low)} to ${kwh(high)})`;
};

function head({ row, page }) {
  const rank = row.rank === undefined ? "unranked" : `${row.rank}${row.rank === row.rank_to ? "" : ` to ${row.rank_to}, a tie,`} of ${row.of}, ${{ on: "on the frontier", tie: "perhaps on the frontier", dominated: "dominated" }[row.frontier]}`;
  const rows = (keys) => keys.flatMap((one, place) => [place ? ", " : "", h("a", { href: `row.html?${one}` }, one)]);
  const facts = [
    ["laboratory", row.lab + (row.revealed ? `, who are ${row.revealed}` : "") + (row.signed ? ", signed" : ", not signed")],
    ["level", row.level + (row.reviewed ? `, re-derived by ${row.reviewed}` : "")],
    ["rank", rank],
    ["not ranked because", row.unranked.join("; ")],
    ["energy", row.energy && wh(row.energy)],
    ["class", row.class_text],
    ["status", row.status + (row.reason ? `: ${row.reason}` : "")],
    ["measured by", { first: "those who built the models", third: "others", collaborative: "both together" }[row.party]],
    ["declared interests", row.conflict],
    ["source", row.source],
    ["doubts", row.doubts.join("; ")],
    ["replicates", row.replicates && rows([row.replicates])],
    ["replicated by", row.replications && row.replications.map(({ key, overlaps }) => [rows([key]), overlaps ? " (intervals overlap) " : " (outside the intervals) "])],
    ["supersedes", row.supersedes && rows([row.supersedes])],
    ["superseded by", row.superseded_by && rows([row.superseded_by])],
    ["shares an artifact with", row.shares?.length && rows(row.shares)],
    ["licence", row.licence],
  ].filter(([, value]) => value && value.length !== 0);
  const bibtex = `@misc{${row.lab}-${row.id},\n  title = {${row.title.replace(/[\\{}$&#%_~^]/g, (mark) => `\\${mark}`)}},\n  author = {${row.lab}},\n  note = {Leaderboard entry ${row.key}}\n}`;
  return h(
    "section",
    { class: "row-head", "aria-label": "This row of the leaderboard" },
    h("p", null, h("a", { href: `index.html${location.hash}` }, "All rows")),
    page ? null : h("h1", null, row.title),
    h("p", null, h("img", { src: `badges/${row.key}.svg`, alt: `${row.level}, ${rank}`, height: 20 })),
    h("dl", { class: "facts" }, facts.map(([term, value]) => [h("dt", null, term), h("dd", null, value)])),
    page || !row.stages.length
      ? null
      : table({
          caption: "Stages, as stated",
          rows: row.stages,
          columns: [
            { key: "stage", label: "stage", text: (one) => one.stage },
            { key: "energy", label: "energy", numeric: true, text: (one) => wh(one.energy) },
          ],
        }).element,
    row.findings?.length > 0 && h("details", null, h("summary", null, `${row.findings.length} findings`), h("ul", null, row.findings.map((f) => h("li", null, `${f.id}: ${f.text}. ${f.fix}.${f.waived ? ` Waived: ${f.waived}` : ""}`)))),
    h("details", null, h("summary", null, "Cite this row"), h("pre", null, bibtex)),
  );
}

if (/^[a-z0-9-]{2,40}\/[A-Za-z0-9-]{2,64}$/.test(name)) {
  load(`rows/${name}.js`).then(
    async () => {
      const data = window.KIT_ROW;
      if (!data.page) put(app, head(data));
      else {
        const holder = h("script", { type: "application/json", id: "data" });
        holder.textContent = JSON.stringify({ ...data.page, factors: window.KIT_FACTORS });
        document.body.append(holder);
        await load("assets/report.js");
        app.prepend(head(data));
      }
      document.title = `${data.row.title} (${data.row.lab})`;
    },
    () => put(app, h("h1", null, "No such row"), h("p", null, h("a", { href: "index.html" }, "All rows"))),
  );
} else put(app, h("h1", null, "No such row"), h("p", null, h("a", { href: "index.html" }, "All rows")));
