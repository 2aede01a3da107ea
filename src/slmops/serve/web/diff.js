// Where two texts differ, word by word: the longest common subsequence (Hunt and McIlroy 1976), over what is left when the
// same beginning and the same end are set aside.

const MOST = 3000;
const WORDS = /\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu;

/**
 * {left, right, same, differ, of}: each side as [{text, same}], whether they are one text, how many words differ, of how many
 * (marks and spaces are shown, and not counted); null where it is too long.
 */
export function difference(one, other) {
  const a = one.match(WORDS) ?? [], b = other.match(WORDS) ?? [];
  let head = 0, tail = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const x = a.slice(head, a.length - tail), y = b.slice(head, b.length - tail);
  if (x.length > MOST || y.length > MOST) return null;
  const wide = y.length + 1, table = new Uint16Array((x.length + 1) * wide);
  for (let i = x.length - 1; i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) {
      const place = i * wide + j;
      table[place] = x[i] === y[j] ? table[place + wide + 1] + 1 : Math.max(table[place + wide], table[place + 1]);
    }
  }
  const left = new Array(a.length).fill(true), right = new Array(b.length).fill(true);
  let i = 0, j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) {
      i++;
      j++;
    } else if (j >= y.length || (i < x.length && table[(i + 1) * wide + j] >= table[i * wide + j + 1])) left[head + i++] = false;
    else right[head + j++] = false;
  }
  const words = (parts) => parts.filter((part) => /[\p{L}\p{N}]/u.test(part)).length;
  const differ = Math.max(words(a.filter((_, place) => !left[place])), words(b.filter((_, place) => !right[place])));
  return { left: joined(a, left), right: joined(b, right), same: one === other, differ, of: Math.max(words(a), words(b)) };
}

/** Neighbours of one kind as one part; a space between two that differ differs with them. */
function joined(parts, same) {
  const found = [];
  parts.forEach((text, place) => {
    const alike = same[place] && !(text.trim() === "" && same[place - 1] === false && same[place + 1] === false);
    if (found.at(-1)?.same === alike) found.at(-1).text += text;
    else found.push({ text, same: alike });
  });
  return found;
}
