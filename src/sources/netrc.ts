/**
 * The netrc file: logins by host. Source: ftp(1), and what curl adds: quoted words with backslashes, and # to the end of a line.
 */

export interface NetrcEntry {
  /** Undefined for `default`, which stands for every host that has no entry before it. */
  readonly machine?: string;
  readonly login?: string;
  readonly password?: string;
}

/** In the file's order: the first that fits counts. Words that mean nothing are read past, as everybody does. */
export function parseNetrc(text: string): NetrcEntry[] {
  const entries: { machine?: string; login?: string; password?: string }[] = [];
  const words = netrcWords(text);
  const next = (): string | undefined => words.next().value ?? undefined;
  for (let word = next(); word !== undefined; word = next()) {
    switch (word.toLowerCase()) {
      case 'machine': {
        const machine = next();
        if (machine !== undefined) entries.push({ machine: machine.toLowerCase() });
        break;
      }
      case 'default':
        entries.push({});
        break;
      case 'login':
      case 'password': {
        const value = next();
        const entry = entries.at(-1);
        if (entry && value !== undefined) entry[word.toLowerCase() as 'login' | 'password'] = value;
        break;
      }
      case 'account':
        next();
        break;
    }
  }
  return entries;
}

/** Macros are left out: their commands may look like anything. */
function* netrcWords(text: string): Generator<string, undefined> {
  const word = /\s*(?:#[^\n]*|"((?:[^"\\]|\\[\s\S])*)"?|(\S+))/y;
  for (let found = word.exec(text); found; found = word.exec(text)) {
    const [, quoted, bare] = found;
    if (quoted !== undefined)
      yield quoted.replace(/\\([\s\S])/g, (_, character: string) => escapes[character] ?? character);
    else if (bare === 'macdef') {
      const end = /\n[ \t\r]*\n/g;
      end.lastIndex = word.lastIndex;
      word.lastIndex = end.exec(text) ? end.lastIndex : text.length;
    } else if (bare !== undefined) yield bare;
  }
}

const escapes: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' };
