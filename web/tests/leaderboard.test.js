// The leaderboard's site in a real Chromium, from file://. KIT_SITE is a site of `kit leaderboard build`
// with ranked rows and more than 60 in all; scripts/test_pages.py writes it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { test } from "node:test";

import { pareto, places } from "../src/arithmetic.js";
import { CHROMIUM, openPage, withBrowser } from "./browser.js";

const site = process.env.KIT_SITE;
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const index = site && join(site, "index.html");

async function serious(page) {
  await page.evaluate(await readFile(axe, "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"], preload: false }));
  return violations
    .filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 120)).join(" | ")}`);
}

// The cell of a column in the first row that is drawn.
async function cell(page, name, row = 0) {
  const place = await page.evaluate((label) => [...document.querySelectorAll("#rows ~ div thead th, section[aria-labelledby=rows] thead th")].findIndex((th) => th.textContent === label), name);
  return page.locator("section[aria-labelledby=rows] tbody tr:not([aria-hidden])").nth(row).locator("th, td").nth(place).innerText();
}

test("places on the frontier are those that every pair gives", () => {
  let seed = 1;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  const around = (best, width) => ({ best, low: best - width, high: best + width });
  const seen = new Set();
  for (let round = 0; round < 60; round += 1) {
    const points = [...Array(12).keys()].map((name) => ({
      name: String(name),
      cost: around(1 + Math.floor(random() * 8), Math.floor(random() * 3) / 2),
      quality: around(Math.floor(random() * 8), Math.floor(random() * 3) / 2),
    }));
    const found = places(points);
    for (const { name, dominatedBy, ties } of pareto(points)) {
      const expected = dominatedBy.length ? "dominated" : ties.length ? "tie" : "frontier";
      seen.add(expected);
      assert.equal(found.get(name), expected, JSON.stringify(points));
    }
  }
  assert.equal(seen.size, 3);
});

// Of a table with a window at 900 px of height: 18 rows are in 70 % of it, and 5 to spare on either side.
const DRAWN = 28;

const large = process.env.KIT_LARGE;
test("a thousand rows", { skip: !CHROMIUM ? "no Chromium here" : large ? false : "KIT_LARGE names no site" }, async () => {
  await withBrowser(async (context) => {
    const { page, problems } = await openPage(context, join(large, "index.html"));
    const rows = page.locator("section[aria-labelledby=rows] tbody tr:not([aria-hidden])");
    assert.equal(await rows.count(), DRAWN);
    await page.waitForSelector("#chart ~ div svg .point");
    assert.equal(await page.locator("#control-a option").count(), 1001);
    const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
    const cdp = await context.newCDPSession(page);
    await cdp.send("Performance.enable", { timeDomain: "threadTicks" });
    const spent = async () => (await cdp.send("Performance.getMetrics")).metrics.find(({ name }) => name === "TaskDuration").value;
    // From the event to the frame after it (wall), and what of it was the main thread's: handlers, layout, paint.
    const timed = async (act) => {
      const begun = await spent();
      const wall = await page.evaluate(async (kind) => {
        const found = [];
        for (const n of [2, 3, 4, 5, 6, 7]) {
          const start = performance.now();
          if (kind === "slider") {
            const input = document.getElementById("control-n");
            input.value = n;
            input.dispatchEvent(new Event("input"));
          } else [...document.querySelectorAll("button.sort")].find((one) => one.textContent === (n % 2 ? "Q" : "energy")).click();
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          found.push(performance.now() - start);
        }
        return found.sort((x, y) => x - y)[3];
      }, act);
      return `${wall.toFixed(0)} ms (CPU of the page ${(((await spent()) - begun) * 1000 / 6).toFixed(0)} ms)`;
    };
    const before = await rows.first().locator("td").nth(3).innerText();
    console.log(`1,000 rows: first paint ${paint.toFixed(0)} ms; a step of the slider ${await timed("slider")}; a sort ${await timed("sort")}`);
    assert.equal(await rows.count(), DRAWN);
    const settle = () => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    await page.locator("#control-pue").fill("3");
    await settle();
    assert.notEqual(await rows.first().locator("td").nth(3).innerText(), before);
    const points = () => page.locator("#chart ~ div svg .point").count();
    const own = await points();
    assert.ok(own > 0 && own < 50, `${own} elements for a thousand points`);

    // The points are pixels: they are there, follow slider and theme, say what they are, and are elements on paper.
    const pixels = () =>
      page.locator("#chart ~ div canvas").evaluate((canvas) => {
        const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const [at, colours] = [[], new Set()];
        for (let place = 0; place < data.length; place += 4) {
          if (data[place + 3] < 255) continue;
          at.push([(place / 4) % width, Math.floor(place / 4 / width)]);
          colours.add(data.slice(place, place + 3).join());
        }
        return { at, colours: [...colours] };
      });
    const light = await pixels();
    assert.ok(light.at.length > 2000, `${light.at.length} pixels for a thousand points`);
    const [x, y] = light.at[0];
    const box = await page.locator("#chart ~ div canvas").boundingBox();
    const title = () => page.locator("#chart ~ div canvas").getAttribute("title");
    await page.mouse.move(box.x + x, box.y + y);
    assert.match(await title(), /^row \d+ \(lab-\d+\): .*Q \d\.\d\d; /);
    await page.mouse.move(box.x + 3, box.y + 3);
    assert.equal(await title(), "");
    const slide = (kind, n) => page.locator("#control-n").evaluate((input, [on, to]) => { input.value = to; input.dispatchEvent(new Event(on)); }, [kind, n]);
    await slide("input", 40);
    await settle();
    assert.notDeepEqual((await pixels()).at, light.at);
    assert.match(await rows.first().locator("a").getAttribute("href"), /#pue=3&n=40$/);
    assert.doesNotMatch(page.url(), /n=40/, "the slider still moves");
    await slide("change", 40);
    assert.match(page.url(), /#pue=3&n=40$/);
    await page.emulateMedia({ colorScheme: "dark" });
    await settle();
    const dark = await pixels();
    assert.ok(dark.colours.length && !dark.colours.includes(light.colours[0]), "colours of the other theme");
    await page.emulateMedia({ colorScheme: "light" });

    // Rows are drawn in elements used before: each has the cells of its own row, in the order asked for.
    await page.locator(".scroller").evaluate((box) => box.scrollTo(0, 9000));
    await settle();
    await page.getByRole("button", { name: "laboratory", exact: true }).click();
    await settle();
    const drawn = await page.evaluate(() => {
      const known = new Map(globalThis.KIT_INDEX.rows.map((row) => [row.title, row]));
      return [...document.querySelectorAll("section[aria-labelledby=rows] tbody tr:not([aria-hidden])")].map((tr) => {
        const { key, lab } = known.get(tr.querySelector("th").textContent);
        return { index: Number(tr.getAttribute("aria-rowindex")), fits: tr.cells[1].textContent === lab && tr.querySelector("a").getAttribute("href") === `row.html?${key}${location.hash}`, lab };
      });
    });
    assert.equal(drawn.length, DRAWN);
    assert.ok(drawn.every(({ fits, index }, place) => fits && index === drawn[0].index + place && index > 200), JSON.stringify(drawn));
    assert.deepEqual(drawn.map(({ lab }) => lab), drawn.map(({ lab }) => lab).sort());
    await page.setViewportSize({ width: 1200, height: 2400 });
    await settle();
    assert.equal(await rows.count(), 57, "a tall window is filled");

    await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
    assert.equal(await points(), own + 1000);
    await page.evaluate(() => dispatchEvent(new Event("afterprint")));
    assert.equal(await points(), own);
    assert.ok((await pixels()).at.length > 2000);
    assert.deepEqual(problems, []);
  });
});

test("leaderboard", { skip: !CHROMIUM ? "no Chromium here" : site ? false : "KIT_SITE names no site" }, async (t) => {
  await withBrowser(async (context) => {
    const { page, problems, seconds } = await openPage(context, index);
    console.log(`first paint of the index: ${seconds.toFixed(2)} s`);
    const settle = () => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const choose = async (key, value) => {
      await page.locator(`#control-${key}`).selectOption(value);
      await settle();
    };
    const type = async (key, value) => {
      await page.locator(`#control-${key}`).fill(String(value));
      await settle();
    };

    await t.test("every control moves its figures, and the address keeps them", async () => {
      const watt = async () => {
        const [, number, unit] = /^([\d.\u202f]+)\s(\w*)Wh/.exec(await cell(page, "energy"));
        return Number(number.replace("\u202f", "")) * { k: 1000, "": 1, m: 0.001 }[unit];
      };
      const plain = await watt();
      await type("pue", 2);
      assert.ok(Math.abs((await watt()) / plain - 2) < 0.02);
      await choose("puefrom", await page.locator("#control-puefrom option").nth(1).getAttribute("value"));
      assert.ok((await watt()) < 2 * plain);
      await choose("puefrom", "");
      await type("pue", 1);
      assert.equal(await cell(page, "CO2e"), "–");
      await choose("grid", await page.locator("#control-grid option").nth(1).getAttribute("value"));
      assert.match(await cell(page, "CO2e"), /g$/);
      assert.match(await page.locator("main .note").first().innerText(), /Grid: .*\d{4}/);
      assert.match(await cell(page, "Q"), /^\d\.\d\d( \(|$)/);
      await choose("boundary", "gpu");
      assert.equal(await cell(page, "energy"), "unknown", "what another run paid is not known for GPUs alone");
      await choose("boundary", "all");
      await page.locator("#control-n").evaluate((input) => { input.value = 10; input.dispatchEvent(new Event("input")); });
      await settle();
      assert.ok((await watt()) < plain);
      const token = await cell(page, "J/token");
      await choose("per", "trained");
      assert.notEqual(await cell(page, "J/token"), token);
      await type("jref", 0.5);
      await type("jstudent", 0.1);
      const address = page.url();
      for (const part of ["n=10", "per=trained", "jref=0.5", "grid="]) assert.ok(address.includes(part), address);
      const again = await context.newPage();
      await again.goto(address);
      await again.waitForSelector("h1");
      assert.equal(await again.locator("#control-n").inputValue(), "10");
      await again.close();
    });

    await t.test("filters, ranks that do not move, a windowed table that can be sorted and shown whole", async () => {
      await page.goto(pathToFileURL(index).href);
      await page.reload();
      await page.waitForSelector("h1");
      assert.match(await cell(page, "rank"), /^1( to \d)? of \d/);
      const caption = page.locator("section[aria-labelledby=rows] caption");
      assert.match(await caption.textContent(), /^3 rows, .*; 80 of other classes not shown/);
      await choose("class", "all");
      assert.doesNotMatch(await caption.textContent(), /not shown/);
      const drawn = () => page.locator("section[aria-labelledby=rows] tbody tr:not([aria-hidden])").count();
      assert.equal(await drawn(), DRAWN);
      await page.getByRole("button", { name: "energy", exact: true }).focus();
      await page.keyboard.press("Enter");
      await page.keyboard.press("Enter");
      assert.equal(await page.locator('th[aria-sort="descending"]').innerText(), "energy");
      assert.match(await cell(page, "rank"), /unranked/);
      const times = [];
      for (const value of [2, 3, 4, 5, 6]) {
        times.push(await page.evaluate((n) => new Promise((done) => {
          const input = document.getElementById("control-n");
          input.value = n;
          const begun = performance.now();
          input.dispatchEvent(new Event("input"));
          requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
        }), value));
      }
      console.log(`a step of the slider: ${times.map((ms) => ms.toFixed(0)).join(", ")} ms`);
      await page.getByRole("button", { name: /^Show all/ }).click();
      assert.ok((await drawn()) > 60);
      await choose("level", "reported");
      assert.equal(new Set(await page.locator("section[aria-labelledby=rows] tbody tr td:nth-child(3)").allInnerTexts()).size, 1);
    });

    await t.test("two rows side by side", async () => {
      await choose("level", "");
      const keys = await page.locator("#control-a option").evaluateAll((all) => all.map((one) => one.value).filter(Boolean));
      await choose("a", keys[0]);
      await choose("b", keys[1]);
      assert.match(await page.locator("section[aria-labelledby=compare] .sentence").innerText(), /: /);
      assert.ok((await page.locator("section[aria-labelledby=compare] tbody tr").count()) > 10);
    });

    await t.test("texts of strangers stay texts", async () => {
      assert.equal(await page.evaluate(() => globalThis.hit), undefined);
      assert.equal(await page.locator("main img, main b, main iframe").count(), 0);
      await choose("class", "all");
      await page.getByRole("button", { name: /^Show all/ }).click();
      assert.ok((await page.locator("section[aria-labelledby=rows]").innerText()).includes("<img src=x onerror"));
    });

    await t.test("a row: what the leaderboard says, then the report with its trace; nothing leaves the page", async () => {
      await page.goto(pathToFileURL(index).href);
      await page.reload();
      await page.locator("section[aria-labelledby=rows] tbody a").first().click();
      await page.waitForSelector("#stages");
      const said = await page.locator(".row-head").innerText();
      for (const word of ["laboratory", "level", "rank", "class", "CC-BY-4.0"]) assert.ok(said.includes(word), said);
      assert.ok((await page.locator("canvas").count()) > 0);
      assert.equal(await page.evaluate(() => globalThis.hit), undefined);
      assert.deepEqual(await serious(page), []);
      assert.ok(await page.locator(".row-head img").evaluate((image) => image.naturalWidth > 0));
      for (const name of ["../../etc/passwd", "a/b?<script>", "no/such-row"]) {
        const [other] = [await context.newPage()];
        await other.goto(`${pathToFileURL(join(site, "row.html")).href}?${encodeURIComponent(name)}`);
        assert.equal(await other.locator("h1").innerText(), "No such row");
        await other.close();
      }
    });

    await t.test("axe, light and dark, widths from a phone to a wall", async () => {
      await page.goto(pathToFileURL(index).href);
      await page.reload();
      await page.waitForSelector("h1");
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        assert.deepEqual(await serious(page), []);
      }
      for (const width of [320, 768, 2000]) {
        await page.setViewportSize({ width, height: 800 });
        await settle();
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        assert.ok(wide <= width, `${wide} px of content at ${width} px`);
      }
    });
    assert.deepEqual(problems.filter((text) => !/no.such-row|ERR_FILE_NOT_FOUND/.test(text)), []);
  });
});
