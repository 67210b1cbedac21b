// The BERT tokenizer of keras-nlp, lowercase: fold the case, split at spaces
// and punctuation, and of each word take the longest pieces there are.
// (Cherokee, and letters younger than TensorFlow's Unicode, fold elsewhere.)

// What stays as a word of its own: punctuation, and Chinese characters.
const ALONE = String.raw`!-\/:-@\[-\x60{-~\p{P}\u4e00-\u9fff\u3400-\u4dbf` +
  String.raw`\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}` +
  String.raw`\u{2b820}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}`;
const SPLIT = new RegExp(String.raw`([${ALONE}])|[ \p{Cc}\p{Cf}]`, "u");
const IGNORED = /\p{Default_Ignorable_Code_Point}/gu;
const MAX_BYTES = 100;

// Unicode's case folding: one letter at a time, or a last sigma stays one.
const fold = letter => letter === "ı" ? letter : letter.toLowerCase().toUpperCase().toLowerCase();
const folded = word => Array.from(word.normalize("NFKC"), fold).join("")
  .normalize("NFKC").replace(IGNORED, "");

function pieces(word, ids) {
  if (new TextEncoder().encode(word).length > MAX_BYTES) return null;
  const found = [];
  for (let start = 0; start < word.length;) {
    const mark = start ? "##" : "";
    let end = word.length;
    while (end > start && !ids.has(mark + word.slice(start, end))) end--;
    if (end === start) return null;
    found.push(ids.get(mark + word.slice(start, end)));
    start = end;
  }
  return found;
}

// Gives a function from a text to the model's three inputs.
export function tokenizer(vocabulary, length) {
  const ids = new Map(vocabulary.map((token, id) => [token, id]));
  return text => {
    const words = text.split(SPLIT).filter(Boolean).map(folded);
    const found = words.flatMap(word => pieces(word, ids) ?? [ids.get("[UNK]")]);
    const all = [ids.get("[CLS]"), ...found.slice(0, length - 2), ids.get("[SEP]")];
    const rest = new Array(length - all.length);
    return {
      ids: [...all, ...rest.fill(ids.get("[PAD]") ?? 0)],
      mask: [...all.fill(1), ...rest.fill(0)],
      segments: new Array(length).fill(0),
    };
  };
}
