/**
 * A Git repository written file by file: no process is started, so that a world of sixty repositories is there in a moment, and the
 * same bytes have the same revisions each time.
 */
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { deflateSync } from 'node:zlib';

export type Files = ReadonlyMap<string, string>;

export interface CommitOptions {
  readonly parent?: string | undefined;
  /** Seconds since 1970. */
  readonly time: number;
  /** Path → revision of what is checked out there. */
  readonly submodules?: ReadonlyMap<string, string>;
}

interface Entry {
  readonly mode: '100644' | '40000' | '160000';
  readonly id: string;
}

type Folder = Map<string, Folder | Entry>;

/** The mode of a submodule's entry. */
const gitlink = 0o160000;

export class GitRepository {
  /** Where the working tree is, or of a bare repository the repository itself. */
  readonly folder: string;
  readonly bare: boolean;
  readonly #git: string;
  #checkedOut: Files = new Map();

  constructor(folder: string, bare: boolean) {
    this.folder = folder;
    this.bare = bare;
    this.#git = bare ? folder : join(folder, '.git');
    for (const name of ['objects', 'refs/heads', 'refs/tags'])
      mkdirSync(join(this.#git, name), { recursive: true });
    writeFileSync(join(this.#git, 'HEAD'), 'ref: refs/heads/main\n');
    writeFileSync(
      join(this.#git, 'config'),
      `[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = ${bare}\n`,
    );
  }

  commit(files: Files, { parent, time, submodules = new Map() }: CommitOptions): string {
    const root: Folder = new Map();
    const put = (path: string, entry: Entry) => {
      const parts = path.split('/');
      let folder = root;
      for (const part of parts.slice(0, -1)) {
        const next = folder.get(part);
        const inner: Folder = next instanceof Map ? next : new Map();
        folder.set(part, inner);
        folder = inner;
      }
      folder.set(parts.at(-1)!, entry);
    };
    for (const [path, text] of files) put(path, { mode: '100644', id: this.#object('blob', text) });
    for (const [path, id] of submodules) put(path, { mode: '160000', id });
    const who = `Ada Example <ada@flk.example> ${time} +0000`;
    return this.#object(
      'commit',
      [
        `tree ${this.#tree(root)}`,
        ...(parent === undefined ? [] : [`parent ${parent}`]),
        `author ${who}`,
        `committer ${who}`,
        '',
        'a commit\n',
      ].join('\n'),
    );
  }

  annotatedTag(name: string, commit: string, time: number): string {
    return this.#object(
      'tag',
      `object ${commit}\ntype commit\ntag ${name}\ntagger Ada Example <ada@flk.example> ${time} +0000\n\n${name}\n`,
    );
  }

  /** These are the refs from now on (`refs/heads/main` …), and of a repository with a working tree `files` are in it. */
  moveTo(
    refs: ReadonlyMap<string, string>,
    files: Files,
    submodules: ReadonlyMap<string, string> = new Map(),
  ): void {
    for (const kind of ['refs/heads', 'refs/tags'])
      for (const name of readdirSync(join(this.#git, kind), { recursive: true, withFileTypes: true }))
        if (name.isFile()) rmSync(join(name.parentPath, name.name));
    for (const [name, id] of refs) write(join(this.#git, name), `${id}\n`);
    if (this.bare) return;
    this.#checkOut(files, submodules);
  }

  /** Changes a file of the working tree, and nothing else; until the next move. */
  change(path: string, text: string): void {
    write(join(this.folder, path), text);
    this.#checkedOut = new Map(this.#checkedOut).set(path, text);
  }

  /** Puts files into the working tree and the index; submodules are there, but empty. */
  #checkOut(files: Files, submodules: ReadonlyMap<string, string>): void {
    for (const path of this.#checkedOut.keys())
      if (!files.has(path)) rmSync(join(this.folder, path), { force: true });
    for (const [path, text] of files)
      if (this.#checkedOut.get(path) !== text) write(join(this.folder, path), text);
    this.#checkedOut = files;
    for (const path of submodules.keys()) mkdirSync(join(this.folder, path), { recursive: true });
    writeFileSync(join(this.#git, 'index'), this.#index(files, submodules));
  }

  /** gitformat-index(5), version 2. */
  #index(files: Files, submodules: ReadonlyMap<string, string>): Buffer {
    const entry = (path: string, mode: number, id: string): Buffer => {
      const name = Buffer.from(path);
      const bytes = Buffer.alloc(Math.ceil((62 + name.length + 1) / 8) * 8);
      const info = lstatSync(join(this.folder, path), { bigint: true });
      const nanoseconds = 1_000_000_000n;
      const numbers = [
        info.ctimeNs / nanoseconds,
        info.ctimeNs % nanoseconds,
        info.mtimeNs / nanoseconds,
        info.mtimeNs % nanoseconds,
        info.dev,
        info.ino,
        BigInt(mode),
        info.uid,
        info.gid,
        mode === gitlink ? 0n : info.size,
      ];
      for (const [index, number] of numbers.entries())
        bytes.writeUInt32BE(Number(number & 0xffffffffn), index * 4);
      Buffer.from(id, 'hex').copy(bytes, 40);
      bytes.writeUInt16BE(name.length, 60);
      name.copy(bytes, 62);
      return bytes;
    };
    const entries = [
      ...[...files].map(([path, text]) => ({
        path,
        bytes: entry(path, 0o100644, idOf('blob', Buffer.from(text))),
      })),
      ...[...submodules].map(([path, id]) => ({ path, bytes: entry(path, gitlink, id) })),
    ].sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)));
    const header = Buffer.alloc(12);
    header.write('DIRC', 'latin1');
    header.writeUInt32BE(2, 4);
    header.writeUInt32BE(entries.length, 8);
    const body = Buffer.concat([header, ...entries.map(({ bytes }) => bytes)]);
    return Buffer.concat([body, createHash('sha1').update(body).digest()]);
  }

  #tree(folder: Folder): string {
    const entries = [...folder].map(([name, value]): { name: string; entry: Entry } => ({
      name,
      entry: value instanceof Map ? { mode: '40000', id: this.#tree(value) } : value,
    }));
    // Git sorts folders as if their names ended in a slash.
    const key = ({ name, entry }: (typeof entries)[number]) =>
      Buffer.from(entry.mode === '40000' ? `${name}/` : name);
    entries.sort((a, b) => Buffer.compare(key(a), key(b)));
    return this.#object(
      'tree',
      Buffer.concat(
        entries.map(({ name, entry }) =>
          Buffer.concat([Buffer.from(`${entry.mode} ${name}\0`), Buffer.from(entry.id, 'hex')]),
        ),
      ),
    );
  }

  #object(type: string, content: string | Buffer): string {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    const id = idOf(type, bytes);
    const path = join(this.#git, 'objects', id.slice(0, 2), id.slice(2));
    if (!existsSync(path))
      write(
        path,
        deflateSync(Buffer.concat([Buffer.from(`${type} ${bytes.length}\0`), bytes]), { level: 1 }),
      );
    return id;
  }
}

function idOf(type: string, bytes: Buffer): string {
  return createHash('sha1').update(`${type} ${bytes.length}\0`).update(bytes).digest('hex');
}

function write(path: string, content: string | Buffer): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}
