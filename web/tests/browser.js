// Debian's Chromium, without a network, for tests of pages opened from file://.

import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { chromium } from "playwright-core";

export const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path));

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

// Runs `use(browser)` with a fresh profile.
export async function withBrowser(use) {
  const profile = await mkdtemp(join(tmpdir(), "kit-pages-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    args: FLAGS,
    offline: true,
    viewport: { width: 1200, height: 900 },
  });
  try {
    return await use(context);
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
}

// A page from a file; `problems` collects errors of the console and requests that leave the page.
export async function openPage(context, path) {
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error.stack ?? error)));
  page.on("request", (request) => /^(https?|ws)/.test(request.url()) && problems.push(`asked for ${request.url()}`));
  const begun = performance.now();
  await page.goto(pathToFileURL(path).href);
  await page.waitForSelector("h1");
  return { page, problems, seconds: (performance.now() - begun) / 1000 };
}
