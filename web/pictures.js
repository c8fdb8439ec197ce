// Pictures of pages: node pictures.js FILE.html SELECTOR[,SELECTOR] OUT.png ...; from the first selector's top to the last one's end.

import { openPage, withBrowser } from "./tests/browser.js";

const asked = process.argv.slice(2);
await withBrowser(async (context) => {
  while (asked.length) {
    const [file, selectors, path] = asked.splice(0, 3);
    const { page, problems } = await openPage(context, file);
    await page.setViewportSize({ width: 900, height: 900 });
    await page.waitForTimeout(1000);
    const boxes = await Promise.all(selectors.split(",").map((selector) => page.locator(selector).first().boundingBox()));
    if (problems.length || boxes.includes(null)) throw new Error(`${file}: ${problems.join("; ") || `no ${selectors}`}`);
    const [y, end] = [Math.min(...boxes.map((box) => box.y)), Math.max(...boxes.map((box) => box.y + box.height))];
    await page.screenshot({ path, fullPage: true, clip: { x: 0, y: Math.max(0, y - 8), width: 900, height: end - y + 16 } });
    await page.close();
  }
});
