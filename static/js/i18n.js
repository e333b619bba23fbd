/** The site's script catalogue (/jsi18n/), or plain English where none is loaded, as under node --test. */

/**
 * What the catalogue's script defines.
 *
 * @type {{
 *   gettext?: (text: string) => string, ngettext?: (one: string, many: string, n: number) => string, document?: Document,
 *   navigator?: Navigator,
 * }}
 */
const page = globalThis;

/** @param {string} text */
export const gettext = (text) => page.gettext?.(text) ?? text;

/** @param {string} one @param {string} many @param {number} n */
export const ngettext = (one, many, n) => page.ngettext?.(one, many, n) ?? (n === 1 ? one : many);

/** Put values into %(name)s. @param {string} text @param {Record<string, string | number>} values */
export const fill = (text, values) => text.replace(/%\((\w+)\)s/g, (_, name) => String(values[name]));

/** The page's language for `Intl`, with the reader's region where the browser names one: en-GB dates for a page in "en". */
export function language() {
  const tag = page.document?.documentElement.lang || "en";
  return page.navigator?.languages?.find((candidate) => candidate.toLowerCase().startsWith(`${tag}-`)) ?? tag;
}
