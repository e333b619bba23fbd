/**
 * A message's text as parts: plain text, link, mention, code. Pure; the view makes elements of them. Only http and https
 * addresses become links, and nothing else becomes markup: "javascript:", tags and entities stay text.
 */

/** @typedef {{kind: "text" | "link" | "mention" | "code", text: string}} TextPart */

const PART = /(https?:\/\/[^\s<>"'`“”‘’（）【】《》，。；！？、]+)|`([^`\n]+)`|(?<![\p{L}\p{N}_])@([\p{L}\p{N}_.-]*[\p{L}\p{N}_])/gu;
const TRAILING = ".,;:!?)]}";

/** @param {string} text @returns {TextPart[]} */
export function parts(text) {
  /** @type {TextPart[]} */
  const result = [];
  let end = 0;
  for (const match of text.matchAll(PART)) {
    const part = read(match);
    if (!part) continue;
    if (match.index > end) result.push({ kind: "text", text: text.slice(end, match.index) });
    result.push({ kind: part.kind, text: part.text });
    end = match.index + part.length;
  }
  if (end < text.length) result.push({ kind: "text", text: text.slice(end) });
  return result;
}

/**
 * length: of the source, which may be longer than the text.
 *
 * @param {RegExpMatchArray} match
 * @returns {(TextPart & {length: number}) | null}
 */
function read([whole, address, code, name]) {
  if (code !== undefined) return { kind: "code", text: code, length: whole.length };
  if (name !== undefined) return { kind: "mention", text: whole, length: whole.length };
  const link = withoutTrailingSigns(address);
  return URL.canParse(link) && new URL(link).hostname ? { kind: "link", text: link, length: link.length } : null;
}

/**
 * A full stop after an address belongs to the sentence, a bracket only if it was not opened inside the address.
 *
 * @param {string} address
 */
function withoutTrailingSigns(address) {
  let end = address.length;
  while (TRAILING.includes(address[end - 1])) end -= 1;
  let open = 0;
  for (let i = 0; i < end; i += 1) open += address[i] === "(" ? 1 : address[i] === ")" ? -1 : 0;
  for (; open > 0 && address[end] === ")"; end += 1) open -= 1;
  return address.slice(0, end);
}
