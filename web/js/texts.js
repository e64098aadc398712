// The pack's texts in the page's language: what locales/ holds beyond what ComfyUI shows by itself.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

let all; // one request, however many scripts ask
let texts = {};

/** The page's language, such as "zh". */
export function pageLanguage() {
  return app.extensionManager.setting.get("Comfy.Locale");
}

/** Fetches them, unless the page is in English, of which nothing is translated. */
export async function ready() {
  if (pageLanguage() === "en") return;
  all ??= api.getCustomNodesI18n().catch(() => ({}));
  texts = (await all) ?? {};
}

/** A part of main.json in a language, by default the page's; {} where the language has none. */
export function part(key, language = pageLanguage()) {
  return texts[language]?.[key] ?? {};
}
