/**
 * A message's text as parts: plain, link, mention, code. Pure; the view makes elements of it. Only http and https become
 * links, and nothing else becomes markup: "javascript:", tags and entities stay the text they are.
 */

const PART = /(https?:\/\/[^\s<>"'`“”‘’（）【】《》，。；！？、]+)|`([^`\n]+)`|(?<![\p{L}\p{N}_])@([\p{L}\p{N}_.-]*[\p{L}\p{N}_])/gu;
const TRAILING = /[.,;:!?)\]}]+$/;

/** Return [{kind, text}]; kind is text, link, code or mention. */
export function parts(text) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(PART)) {
    const [kind, shown, length] = read(match);
    if (!kind) continue;
    if (match.index > at) found.push({ kind: "text", text: text.slice(at, match.index) });
    found.push({ kind, text: shown });
    at = match.index + length;
  }
  if (at < text.length) found.push({ kind: "text", text: text.slice(at) });
  return found;
}

function read([whole, address, code, name]) {
  if (code !== undefined) return ["code", code, whole.length];
  if (name !== undefined) return ["mention", whole, whole.length];
  const shown = trimmed(address);
  return URL.canParse(shown) && new URL(shown).hostname ? ["link", shown, shown.length] : [null];
}

/** A full stop after an address belongs to the sentence, a bracket only when it was not opened inside. */
function trimmed(address) {
  const [tail] = address.match(TRAILING) ?? [""];
  let keep = address.slice(0, address.length - tail.length);
  for (const sign of tail) {
    if (sign !== ")" || keep.split("(").length <= keep.split(")").length) break;
    keep += sign;
  }
  return keep;
}
