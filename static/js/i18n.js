/** The site's script catalogue (/jsi18n/), or plain English where none is loaded, as under node --test. */

export const gettext = (text) => globalThis.gettext?.(text) ?? text;

export const ngettext = (one, many, n) => globalThis.ngettext?.(one, many, n) ?? (n === 1 ? one : many);

/** Put values into %(name)s. */
export const fill = (text, values) => text.replace(/%\((\w+)\)s/g, (_, name) => String(values[name]));

export const language = () => globalThis.document?.documentElement.lang || "en";
