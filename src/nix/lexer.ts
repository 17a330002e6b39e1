/** Nix text as tokens, by the longest match as Nix's own scanner has it (`a/b` is a path, `a:b` a URI, `1.5` a float). */

const punctuation = [
  ...['=', ';', ':', ',', '.', '@', '?', '(', ')', '[', ']', '{', '}', '${', '...'],
  ...['!', '==', '!=', '<', '>', '<=', '>=', '&&', '||', '->', '//', '++', '+', '-', '*', '/'],
] as const;

const keywords = ['if', 'then', 'else', 'assert', 'with', 'let', 'in', 'rec', 'inherit', 'or'] as const;

export type TokenKind =
  | (typeof punctuation)[number]
  | (typeof keywords)[number]
  | 'name'
  | 'int'
  | 'float'
  | '"'
  /** Between double quotes, unescaped. */
  | 'text'
  | 'indented-open'
  | 'indented-close'
  /** Between double single quotes, as written: its spaces may be indentation. */
  | 'indented-text'
  /** One escape there, unescaped: none of it is indentation. */
  | 'indented-escape'
  /** Begins a path that ends at a `path-end`; between them `path-text` and holes. */
  | 'path'
  | 'path-text'
  | 'path-end'
  | 'search-path'
  | 'uri'
  | 'end'
  /** Nothing of the language: `value` says why. */
  | 'fault';

export interface Token {
  readonly kind: TokenKind;
  readonly start: number;
  readonly end: number;
  /** A name, a number's digits, a text, a path. Empty for the rest. */
  readonly value: string;
}

const keywordSet: ReadonlySet<string> = new Set(keywords);

const isKeyword = (word: string): word is (typeof keywords)[number] => keywordSet.has(word);

// Classes of the characters below 128; none of the language's own is above.
const digit = 1;
const letter = 2;
const inName = 4;
const inPath = 8;
const inScheme = 16;
const inUri = 32;

const classes = new Uint8Array(128);
for (let code = 0; code < 128; code++) {
  const char = String.fromCharCode(code);
  classes[code] =
    (/[0-9]/.test(char) ? digit : 0) |
    (/[A-Za-z]/.test(char) ? letter : 0) |
    (/[A-Za-z0-9_'-]/.test(char) ? inName : 0) |
    (/[A-Za-z0-9._+-]/.test(char) ? inPath : 0) |
    (/[A-Za-z0-9.+-]/.test(char) ? inScheme : 0) |
    (/[A-Za-z0-9%/?:@&=+$,_.!~*'-]/.test(char) ? inUri : 0);
}

/** Where in the text a token is decides what its characters mean. */
type Mode = 'code' | 'string' | 'indented' | 'path' | 'path-slash';

const float = /(?:[1-9][0-9]*\.[0-9]*|0?\.[0-9]+)(?:[Ee][+-]?[0-9]+)?/y;
const searchPath = /<[a-zA-Z0-9._+-]+(?:\/[a-zA-Z0-9._+-]+)*>/y;

export class Lexer {
  readonly #text: string;
  #at = 0;
  readonly #modes: Mode[] = [];
  #mode: Mode = 'code';
  // Ends of the runs that were looked at last, so that no text is walked twice for each dot in it.
  #pathRunEnd = 0;
  #schemeRunEnd = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** After the end of the text: `end`, again and again. */
  next(): Token {
    switch (this.#mode) {
      case 'code':
        return this.#code();
      case 'string':
        return this.#string();
      case 'indented':
        return this.#indented();
      case 'path':
      case 'path-slash':
        return this.#path();
    }
  }

  #push(mode: Mode): void {
    this.#modes.push(this.#mode);
    this.#mode = mode;
  }

  #pop(): void {
    this.#mode = this.#modes.pop() ?? 'code';
  }

  #token(kind: TokenKind, end: number, value = ''): Token {
    const start = this.#at;
    this.#at = end;
    return { kind, start, end, value };
  }

  #fault(end: number, why: string): Token {
    return this.#token('fault', end, why);
  }

  #is(at: number, kinds: number): boolean {
    const code = this.#text.charCodeAt(at);
    // NaN, after the end, is not below 128 either.
    return code < 128 && (classes[code]! & kinds) !== 0;
  }

  #run(at: number, kinds: number): number {
    while (this.#is(at, kinds)) at++;
    return at;
  }

  #code(): Token {
    const text = this.#text;
    const fault = this.#skip();
    if (fault) return fault;
    const at = this.#at;
    if (at >= text.length) return this.#token('end', at);
    const code = text.charCodeAt(at);
    const kinds = code < 128 ? classes[code]! : 0;
    if (kinds & inPath || code === 0x2f /* / */) {
      const path = this.#pathStart(at);
      if (path) return path;
      if (kinds & letter) {
        const uri = this.#uri(at);
        if (uri) return uri;
      }
      if (kinds & letter || code === 0x5f /* _ */) {
        const end = this.#run(at, inName);
        const word = text.slice(at, end);
        return isKeyword(word) ? this.#token(word, end) : this.#token('name', end, word);
      }
      if (kinds & digit || code === 0x2e /* . */) {
        float.lastIndex = at;
        const match = float.exec(text);
        const end = this.#run(at, digit);
        if (match && match[0].length > end - at) return this.#token('float', at + match[0].length, match[0]);
        if (end > at) return this.#token('int', end, text.slice(at, end));
      }
    }
    return this.#mark(at);
  }

  /** Spaces and comments. */
  #skip(): Token | undefined {
    const text = this.#text;
    let at = this.#at;
    for (;;) {
      const code = text.charCodeAt(at);
      if (code === 0x20 || code === 0x0a || code === 0x09 || code === 0x0d) at++;
      else if (code === 0x23 /* # */) {
        at++;
        while (at < text.length && text.charCodeAt(at) !== 0x0a && text.charCodeAt(at) !== 0x0d) at++;
      } else if (code === 0x2f && text.charCodeAt(at + 1) === 0x2a /* slash, star */) {
        const end = text.indexOf('*/', at + 2);
        if (end < 0) {
          this.#at = at;
          return this.#fault(at + 2, 'this comment is never closed');
        }
        at = end + 2;
      } else break;
    }
    this.#at = at;
    return undefined;
  }

  /** A path, or the part of one before its first hole; leaves the mode in which its rest is read. */
  #pathStart(at: number): Token | undefined {
    const text = this.#text;
    if (at >= this.#pathRunEnd) this.#pathRunEnd = this.#run(at, inPath);
    const slash = this.#pathRunEnd;
    if (text.charCodeAt(slash) !== 0x2f) return undefined;
    return this.#pathFrom(at, slash);
  }

  /** `slash` is the first one. */
  #pathFrom(at: number, slash: number): Token | undefined {
    const text = this.#text;
    const end = this.#segments(slash);
    if (end > slash) {
      this.#push(text.charCodeAt(end - 1) === 0x2f ? 'path-slash' : 'path');
      return this.#token('path', end, text.slice(at, end));
    }
    if (!text.startsWith('${', slash + 1)) return undefined;
    this.#push('path-slash');
    return this.#token('path', slash + 1, text.slice(at, slash + 1));
  }

  /** The end of `/a/b/` that begins here; `slash` itself when no name comes after the first slash. */
  #segments(slash: number): number {
    let at = slash;
    while (this.#text.charCodeAt(at) === 0x2f) {
      const end = this.#run(at + 1, inPath);
      if (end === at + 1) return at === slash ? at : end;
      at = end;
    }
    return at;
  }

  #uri(at: number): Token | undefined {
    if (at >= this.#schemeRunEnd) this.#schemeRunEnd = this.#run(at, inScheme);
    const colon = this.#schemeRunEnd;
    if (this.#text.charCodeAt(colon) !== 0x3a || !this.#is(colon + 1, inUri)) return undefined;
    const end = this.#run(colon + 1, inUri);
    return this.#token('uri', end, this.#text.slice(at, end));
  }

  /** What is neither a word nor a number. */
  #mark(at: number): Token {
    const text = this.#text;
    const code = text.charCodeAt(at);
    switch (code) {
      case 0x22: // "
        this.#push('string');
        return this.#token('"', at + 1);
      case 0x27: // '
        return text.charCodeAt(at + 1) === 0x27 ? this.#indentedOpen(at) : this.#stranger(at);
      case 0x24: // $
        if (text.charCodeAt(at + 1) !== 0x7b) return this.#stranger(at);
        this.#push('code');
        return this.#token('${', at + 2);
      case 0x7b: // {
        this.#push('code');
        return this.#token('{', at + 1);
      case 0x7d: // }
        this.#pop();
        return this.#token('}', at + 1);
      case 0x7e: // ~
        return (text.charCodeAt(at + 1) === 0x2f && this.#pathFrom(at, at + 1)) || this.#stranger(at);
      case 0x3c: {
        // <
        searchPath.lastIndex = at;
        const match = searchPath.exec(text);
        if (match) return this.#token('search-path', at + match[0].length, match[0].slice(1, -1));
      }
    }
    for (let length = 3; length > 0; length--) {
      const word = text.slice(at, at + length);
      if (word.length === length && isPunctuation(word)) return this.#token(word, at + length);
      if (word === '|>' || word === '<|')
        return this.#fault(at + 2, `the pipe operator ${word} is an experiment that Nix leaves off`);
    }
    return this.#stranger(at);
  }

  #stranger(at: number): Token {
    const char = String.fromCodePoint(this.#text.codePointAt(at)!);
    if (/[\p{C}\p{Z}]/u.test(char)) {
      const code = char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
      return this.#fault(at + char.length, `an invisible character, U+${code}, has no meaning in Nix`);
    }
    return this.#fault(at + char.length, `the character ‘${char}’ has no meaning in Nix`);
  }

  #indentedOpen(at: number): Token {
    this.#push('indented');
    let end = at + 2;
    while (this.#text.charCodeAt(end) === 0x20) end++;
    // Spaces count for nothing only when a newline ends them.
    return this.#token('indented-open', this.#text.charCodeAt(end) === 0x0a ? end + 1 : at + 2);
  }

  #string(): Token {
    const text = this.#text;
    const start = this.#at;
    let value = '';
    let from = start;
    let at = start;
    for (;;) {
      if (at >= text.length) return this.#unclosed('this string');
      const code = text.charCodeAt(at);
      if (code === 0x22 /* " */) break;
      if (code === 0x24 /* $ */) {
        const after = text.charCodeAt(at + 1);
        if (after === 0x7b) break;
        // A dollar takes the next one along: $${ is no hole.
        at += after === 0x24 ? 2 : 1;
      } else if (code === 0x5c /* backslash */) {
        if (at + 1 >= text.length) return this.#unclosed('this string');
        value += text.slice(from, at) + escaped(text.charAt(at + 1));
        at += 2;
        // An escaped CR is not the CR of a CR LF.
        from = at;
      } else if (code === 0x0d) {
        value += `${text.slice(from, at)}\n`;
        at += text.charCodeAt(at + 1) === 0x0a ? 2 : 1;
        from = at;
      } else if (code === 0) {
        return this.#nul(at);
      } else at++;
    }
    if (at > start) return this.#token('text', at, value + text.slice(from, at));
    if (text.charCodeAt(at) === 0x22) {
      this.#pop();
      return this.#token('"', at + 1);
    }
    this.#push('code');
    return this.#token('${', at + 2);
  }

  #indented(): Token {
    const text = this.#text;
    const start = this.#at;
    const end = this.#plainIndented(start);
    if (end > start) {
      const value = text.slice(start, end);
      const nul = value.indexOf('\0');
      return nul < 0 ? this.#token('indented-text', end, value) : this.#nul(start + nul);
    }
    if (start >= text.length) return this.#unclosed('this string');
    if (text.startsWith("''$", start)) return this.#token('indented-escape', start + 3, '$');
    if (text.startsWith("'''", start)) return this.#token('indented-escape', start + 3, "''");
    if (text.startsWith("''\\", start) && start + 3 < text.length) {
      const char = String.fromCodePoint(text.codePointAt(start + 3)!);
      if (char === '\0') return this.#nul(start + 3);
      return this.#token('indented-escape', start + 3 + char.length, escaped(char));
    }
    if (text.startsWith("''", start)) {
      this.#pop();
      return this.#token('indented-close', start + 2);
    }
    if (text.startsWith('${', start)) {
      this.#push('code');
      return this.#token('${', start + 2);
    }
    return this.#token('indented-escape', start + 1, text.charAt(start));
  }

  /** The end of what has no escape, hole or closing quotes in it. */
  #plainIndented(at: number): number {
    const text = this.#text;
    while (at < text.length) {
      const code = text.charCodeAt(at);
      if (code === 0x24 /* $ */ || code === 0x27 /* ' */) {
        if (at + 1 >= text.length) return at;
        const after = text.charCodeAt(at + 1);
        if (after === 0x27 || after === (code === 0x24 ? 0x7b : 0x24)) return at;
        at += 2;
      } else at++;
    }
    return at;
  }

  #path(): Token {
    const text = this.#text;
    const at = this.#at;
    if (text.startsWith('${', at)) {
      this.#mode = 'path';
      this.#push('code');
      return this.#token('${', at + 2);
    }
    const run = this.#run(at, inPath);
    let end = run;
    if (text.charCodeAt(run) === 0x2f) {
      const segments = this.#segments(run);
      end = segments > run ? segments : run + 1;
    }
    if (end > at) {
      this.#mode = text.charCodeAt(end - 1) === 0x2f ? 'path-slash' : 'path';
      return this.#token('path-text', end, text.slice(at, end));
    }
    if (this.#mode === 'path-slash') {
      this.#pop();
      this.#at = at - 1;
      return this.#fault(at, 'a path does not end with a slash');
    }
    this.#pop();
    return this.#token('path-end', at);
  }

  #unclosed(what: string): Token {
    const end = this.#text.length;
    this.#at = end;
    return this.#fault(end, `${what} is never closed`);
  }

  #nul(at: number): Token {
    this.#at = at;
    return this.#fault(at + 1, 'a string holds no NUL');
  }
}

const punctuationSet: ReadonlySet<string> = new Set(punctuation);

const isPunctuation = (word: string): word is (typeof punctuation)[number] => punctuationSet.has(word);

function escaped(char: string): string {
  if (char === 'n') return '\n';
  if (char === 'r') return '\r';
  if (char === 't') return '\t';
  return char;
}
