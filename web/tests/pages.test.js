// Pages in a real Chromium: what a reader does with mouse, keys, printer and phone. KIT_PAGES is a folder with
// run.html, set.html and, where the long bundle was made, long.html; scripts/test_pages.py writes them.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";

import { CHROMIUM, openPage, withBrowser } from "./browser.js";

const folder = process.env.KIT_PAGES;
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const file = (name) => join(folder, `${name}.html`);

async function serious(page) {
  await page.evaluate(await readFile(axe, "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
  return violations
    .filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 120)).join(" | ")}`);
}

test("pages", { skip: CHROMIUM ? false : "no Chromium here" }, async (t) => {
  await withBrowser(async (context) => {
    for (const name of ["run", "set"]) {
      await t.test(`${name}: no serious finding of axe, light and dark; no error; nothing leaves the page`, async () => {
        const { page, problems } = await openPage(context, file(name));
        for (const colorScheme of ["light", "dark"]) {
          await page.emulateMedia({ colorScheme });
          assert.deepEqual(await serious(page), []);
        }
        assert.deepEqual(problems, []);
        await page.close();
      });

      await t.test(`${name}: no width from 320 to 2,000 px scrolls sideways`, async () => {
        const { page, problems } = await openPage(context, file(name));
        for (const width of [320, 480, 768, 1280, 2000]) {
          await page.setViewportSize({ width, height: 800 });
          await page.waitForTimeout(100);
          const wide = await page.evaluate(() => document.documentElement.scrollWidth);
          assert.ok(wide <= width, `${wide} px of content at ${width} px`);
          const hidden = await page.locator(".scroller").evaluateAll((all) => all.filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel));
          assert.deepEqual(hidden, [], `tables that scroll sideways at ${width} px`);
        }
        assert.deepEqual(problems, []);
        await page.close();
      });

      await t.test(`${name}: prints to PDF with all its sections`, async () => {
        const { page } = await openPage(context, file(name));
        const pdf = await page.pdf({ format: "A4" });
        assert.equal(pdf.subarray(0, 5).toString(), "%PDF-");
        assert.ok(pdf.length > 30_000);
        await page.emulateMedia({ media: "print" });
        assert.equal(await page.locator(".controls").isVisible(), false);
        assert.equal(await page.locator("#stages table").isVisible(), true);
        const blank = await page.locator("#stages tbody td, #stages tbody th").evaluateAll((cells) => cells.filter((cell) => cell.textContent === "").length);
        assert.equal(blank, 0, "a cell of the table of stages is empty");
        await page.close();
      });
    }

    await t.test("controls: PUE, grid and reuse move figures, table and address; the address brings them back", async () => {
      const { page, problems } = await openPage(context, file("set"));
      const energies = () => page.locator("#compare tbody tr td:nth-child(3)").allTextContents();
      const before = await energies();
      await page.fill("#control-pue", "2");
      await page.waitForFunction((old) => document.querySelector("#compare tbody td:nth-child(3)").textContent !== old, before[0]);
      assert.match(page.url(), /#pue=2$/);
      await page.selectOption("#control-grid", { index: 1 });
      await page.waitForFunction(() => document.querySelector("#compare tbody td:nth-child(5)").textContent !== "–");
      const [doubled, address] = [await energies(), page.url()];
      assert.notDeepEqual(doubled, before);
      await page.selectOption("#control-boundary", "gpu");
      await page.waitForTimeout(50);
      await page.goto("about:blank");
      await page.goto(address);
      await page.waitForSelector("#compare tbody");
      assert.deepEqual(await energies(), doubled);
      await page.locator("#control-n").focus();
      await page.keyboard.press("ArrowRight");
      await page.waitForFunction(() => location.hash.includes("n=2"));
      assert.match(await page.locator("#app").textContent(), /divided by 2/);
      assert.deepEqual(problems, []);
      await page.close();
    });

    await t.test("keyboard: from the first Tab to the figures, sorting, and zooming into the trace", async () => {
      const { page, problems } = await openPage(context, file("set"));
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
      await page.keyboard.press("Enter");
      assert.equal(await page.evaluate(() => document.activeElement.id), "compare-title");
      for (let at = 0; at < 3; at += 1) await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.className), "sort");
      await page.keyboard.press("Enter");
      assert.equal(await page.locator("#compare th[aria-sort='ascending']").count(), 1);
      await page.locator(".trace-block").focus();
      const status = () => page.locator(".trace-block [role=status]").textContent();
      assert.match(await status(), /^All /);
      await page.keyboard.press("+");
      assert.match(await status(), /^From /);
      await page.keyboard.press("0");
      assert.match(await status(), /^All /);
      assert.deepEqual(problems, []);
      await page.close();
    });

    await t.test("on a phone each run is a card that names its figures and can be sorted; with room a table again", async () => {
      const { page, problems } = await openPage(context, file("set"));
      await page.setViewportSize({ width: 360, height: 800 });
      const list = page.locator("#compare table");
      await page.waitForFunction(() => document.querySelector("#compare table.cards"));
      assert.deepEqual(await serious(page), []);
      const heads = await list.locator("thead th").allTextContents();
      const said = await list.locator("tbody tr").first().locator("td").evaluateAll((cells) => cells.map((one) => getComputedStyle(one, "::before").content.slice(1, -1)));
      assert.deepEqual(said, heads.slice(1));
      const seen = await page.getByRole("row").filter({ has: page.getByRole("cell") }).count();
      assert.ok(seen >= (await list.locator("tbody tr").count()), "a card is a row for assistive technology too");
      await list.getByRole("button", { name: "energy", exact: true }).click();
      assert.equal(await list.locator("th[aria-sort='ascending']").textContent(), "energy");
      await page.setViewportSize({ width: 1280, height: 800 });
      await page.waitForFunction(() => !document.querySelector("#compare table.cards"));
      assert.deepEqual(problems, []);
      await page.close();
    });

    await t.test("a text of a log is text", async () => {
      const { page, problems } = await openPage(context, file("hostile"));
      assert.equal(await page.evaluate(() => globalThis.stolen), undefined);
      assert.equal(await page.locator("#app img, #app iframe, #app script").count(), 0);
      assert.match(await page.locator("h1").textContent(), /<\/script><img src=x onerror=/);
      assert.deepEqual(problems, []);
      await page.close();
    });

    await t.test("nine hours of eight GPUs open and zoom", { skip: existsSync(file("long")) ? false : "not made" }, async (t2) => {
      const { page, problems, seconds } = await openPage(context, file("long"));
      assert.equal(await page.locator(".traces canvas").count(), 8);
      await page.locator(".traces").scrollIntoViewIfNeeded();
      await page.evaluate(() => document.querySelector(".traces").scrollIntoView());
      await page.waitForTimeout(300);
      const ms = await page.evaluate(async () => {
        const block = document.querySelector(".trace-block");
        const found = [];
        for (const key of ["+", "+", "ArrowRight", "+", "ArrowLeft", "-", "0"]) {
          const begun = performance.now();
          block.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          found.push(performance.now() - begun);
        }
        return found.sort((a, b) => a - b)[Math.floor(found.length / 2)];
      });
      t2.diagnostic(`opens in ${seconds.toFixed(1)} s (aim 2), a zoom takes ${ms.toFixed(0)} ms (aim 50)`);
      assert.match(await page.locator(".trace-block [role=status]").textContent(), /^All 9 h/);
      assert.deepEqual(problems, []);
      await page.close();
    });
  });
});
