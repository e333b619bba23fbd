/** The site's script catalogue (/jsi18n/), or plain English where none is loaded, as under node --test. */

export const gettext = (text) => globalThis.gettext?.(text) ?? text;

export const ngettext = (one, many, n) => globalThis.ngettext?.(one, many, n) ?? (n === 1 ? one : many);

/** Put values into %(name)s. */
export const fill = (text, values) => text.replace(/%\((\w+)\)s/g, (_, name) => String(values[name]));

/** The page's language for `Intl`, in the reader's own region where the browser names one: en-GB dates for an en page. */
export function language() {
  const page = globalThis.document?.documentElement.lang || "en";
  return globalThis.navigator?.languages?.find((one) => one.toLowerCase().startsWith(`${page}-`)) ?? page;
}
