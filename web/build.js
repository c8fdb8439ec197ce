// Bundles each page's code into harness/, where the wheel takes it from; --check compares instead of writing.

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const root = new URL("..", import.meta.url);
const BUNDLES = [
  { entry: "src/report.js", out: "harness/report/assets/report.js" },
  { entry: "src/report.css", out: "harness/report/assets/report.css" },
  { entry: "src/leaderboard.js", out: "harness/leaderboard/assets/leaderboard.js" },
  { entry: "src/leaderboard.css", out: "harness/leaderboard/assets/leaderboard.css" },
  { entry: "src/row.js", out: "harness/leaderboard/assets/row.js" },
];

// The one library in the bundle asks for its notice.
const licence = await readFile(new URL("node_modules/uplot/LICENSE", import.meta.url), "utf8");
const notice = `/* With uPlot: ${licence.trim().replace(/\s+/g, " ")} */`;

let stale = 0;
for (const { entry, out } of BUNDLES) {
  const { outputFiles } = await build({
    absWorkingDir: fileURLToPath(new URL(".", import.meta.url)),
    entryPoints: [entry],
    bundle: true,
    minify: true,
    format: "iife",
    target: ["chrome109", "firefox115", "safari16"],
    charset: "ascii",
    legalComments: "none",
    banner: { js: notice, css: notice },
    write: false,
  });
  // An element of HTML ends at its own tag, wherever in a script that stands.
  const text = outputFiles[0].text.replaceAll("</script", "<\\/script").replaceAll("</style", "<\\/style");
  const path = new URL(out, root);
  if (process.argv.includes("--check")) {
    const found = await readFile(path, "utf8").catch(() => "");
    if (found !== text) {
      console.error(`web: ${out} is not what web/ builds; make web writes it`);
      stale = 1;
    }
  } else {
    await writeFile(path, text);
    console.log(`web: ${out}, ${(text.length / 1024).toFixed(0)} kB`);
  }
}
process.exitCode = stale;
