// The pack's texts in the page's language: what locales/ holds beyond what ComfyUI shows by itself.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const all = api.getCustomNodesI18n().catch(() => ({}));
let texts = {};

/** Fetches them, once. */
export async function ready() {
  texts = (await all) ?? {};
}

/** A part of main.json in a language, by default the page's; {} where the language has none. */
export function part(key, language = app.extensionManager.setting.get("Comfy.Locale")) {
  return texts[language]?.[key] ?? {};
}
