// What has changed between two texts, by words.

export interface Part {
  text: string;
  kind: "same" | "new" | "gone";
}

// More pairs of words than this are not compared: the texts have little in common, and it would take too long.
const MOST_PAIRS = 250_000;

const wordsOf = (text: string): string[] => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

// The parts of the later text, and between them what of the earlier one is gone; null where comparing would take too long.
export function difference(before: string, after: string): Part[] | null {
  const [a, b] = [wordsOf(before), wordsOf(after)];
  if (a.length * b.length > MOST_PAIRS) return null;
  const width = b.length + 1;
  // lengths[i * width + j]: how long the longest common part of a from i and b from j is.
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = a[i] === b[j] ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const parts: Part[] = [];
  const add = (kind: Part["kind"], text: string) => {
    const last = parts[parts.length - 1];
    if (last?.kind === kind) last.text += text;
    else parts.push({ kind, text });
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add("same", b[j]);
      [i, j] = [i + 1, j + 1];
    } else if (i < a.length && (j === b.length || lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])) {
      add("gone", a[i]);
      i += 1;
    } else {
      add("new", b[j]);
      j += 1;
    }
  }
  return parts;
}
