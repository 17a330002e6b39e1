/**
 * The store's records, in one SQLite file (libsql, write-ahead log): safe with many processes, and after a kill at any moment either
 * all of a transaction is there or nothing.
 */
import { statSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import type { Database as Connection } from 'libsql';
import { FlkError, systemCode } from '../base/errors.ts';
import { withFileLock } from '../base/files.ts';
import type { NarHash } from '../formats/hash.ts';
import { type StorePath, storeDir } from '../formats/store-path.ts';
import { assertReadable, hasHolds, prepare, transaction } from './database-schema.ts';
import type { PathInfo } from './path-info.ts';

/** In place of the NAR hash of a path that is being replaced: its record is not valid. */
const suspended = '';

/** A row of `paths`, and what it refers to as a JSON array. */
interface PathRow {
  readonly path: string;
  readonly narHash: string;
  readonly narSize: number;
  readonly deriver: string | null;
  readonly registrationTime: number;
  readonly ultimate: number;
  readonly signatures: string;
  readonly ca: string | null;
  readonly refs: string;
}

export interface StoreDatabase {
  query(path: StorePath): PathInfo | undefined;
  /** Those that are recorded. */
  recorded(paths: readonly StorePath[]): StorePath[];
  /** The recorded path with this hash part. */
  pathWith(hashPart: string): StorePath | undefined;
  /** The recorded ones among the paths and all that they refer to; sorted. */
  closure(paths: readonly StorePath[]): StorePath[];
  /** Records all of them or none. A path that is recorded already is recorded anew. References must be recorded, or be among them. */
  record(infos: readonly PathInfo[]): void;
  /** Makes what is recorded of these paths count no longer, until they are recorded anew; others may refer to them meanwhile. */
  suspend(paths: readonly StorePath[]): void;
  /** Sorted. */
  paths(): StorePath[];
  isEmpty(): boolean;
  /** Every path with a record, suspended ones too. */
  records(): StorePath[];
  /** Without the path itself; sorted. */
  referrers(path: StorePath): StorePath[];
  /** Notes that this owner uses them. What it noted before costs nothing. */
  hold(paths: readonly StorePath[]): void;
  /** What others hold of what has a record, and who. */
  heldByOthers(): readonly { readonly owner: string; readonly path: StorePath }[];
  /** Owners that hold something, of whatever collects too; some may be gone. */
  owners(): string[];
  /** Forgets what these owners held and that they collect, unless somebody else collects now. */
  purge(owners: readonly string[]): void;
  /** From now on all holds stay, whatever becomes of their owners. Those of the gone are forgotten before. */
  beginCollection(gone: readonly string[]): void;
  endCollection(): void;
  /** Removes the records of those that nobody holds and no path that stays refers to; gives what went. */
  removeUnneeded(paths: readonly StorePath[]): StorePath[];
  /** Gives those that have no record and that nobody holds, and lets nobody begin to hold a path until `work` is over. */
  withUnclaimed(paths: readonly StorePath[], work: (unclaimed: readonly StorePath[]) => void): void;
  /** What SQLite finds wrong with the file, in its words. Reads all of it. */
  faults(): string[];
  memo(key: string): string | undefined;
  /** `about`: the path that it says something of; the memo goes with its record. */
  setMemo(key: string, value: string, about?: StorePath): void;
  /**
   * Removes memos about paths without a record; and of the others those written before this time (ms since 1970), and all but the
   * newest `most`. Gives how many went.
   */
  removeMemos(before: number, most: number): number;
  close(): void;
}

/** Opens or creates the file; its folder must exist. `owner` is who holds paths. Throws FLK_STORE_INVALID, naming the file. */
export async function openDatabase(file: string, owner: string): Promise<StoreDatabase> {
  const Database = (await import('./libsql.ts')).loadLibsql();
  const guard = guardOf(file);
  const open = async (): Promise<Connection> =>
    guard('open', () => opened(new Database(file), (opening) => prepare(opening, file)));
  const isNew = (statSync(file, { throwIfNoEntry: false })?.size ?? 0) === 0;
  // Two that begin a write-ahead log at one time would each wait for the other, and SQLite has neither wait at all.
  const connection = isNew ? await withFileLock(`${file}.new`, open) : await open();
  return new SqliteRecords(connection, owner, guard);
}

/** Opens a file that is there and writes nothing, not even beside it: nothing is held, and what is noted is forgotten. */
export async function openDatabaseToRead(file: string): Promise<StoreDatabase> {
  const Database = (await import('./libsql.ts')).loadLibsql();
  const guard = guardOf(file);
  const url = pathToFileURL(file).href;
  const open = (mode: string): Connection =>
    opened(new Database(`${url}?${mode}`), (opening) => assertReadable(opening, file));
  const connection = guard('open', () => {
    try {
      return open('mode=ro');
    } catch (error) {
      if (error instanceof FlkError) throw error;
      // A log is read by way of a file beside it, which there is not and cannot be: then nobody writes, and there is no log.
      return open('immutable=1');
    }
  });
  return new SqliteRecords(connection, undefined, guard);
}

function guardOf(file: string): Guard {
  return (what, work) => {
    try {
      return work();
    } catch (error) {
      if (error instanceof FlkError) throw error;
      const isFull = /^SQLITE_(FULL|IOERR)/.test(systemCode(error) ?? '');
      throw new FlkError(
        isFull ? 'FLK_FILE_UNWRITABLE' : 'FLK_STORE_INVALID',
        `cannot ${what} the store's database ${file}: ${(error as Error).message}`,
        {
          cause: error,
          hint: 'check that you own the store’s folder and that its disk has space',
        },
      );
    }
  };
}

function opened(connection: Connection, work: (connection: Connection) => void): Connection {
  try {
    work(connection);
    return connection;
  } catch (error) {
    connection.close();
    throw error;
  }
}

type Guard = <T>(what: string, work: () => T) => T;

class SqliteRecords implements StoreDatabase {
  readonly #connection: Connection;
  /** Undefined: nothing is written. */
  readonly #owner: string | undefined;
  readonly #guard: Guard;
  /** What this owner has noted already. */
  readonly #held = new Set<StorePath>();
  /** Of who may not write. */
  readonly #memos = new Map<string, string>();
  readonly #select;
  readonly #selectRecorded;
  readonly #selectClosure;
  readonly #upsert;
  readonly #clearReferences;
  readonly #addReferences;
  readonly #selectMemo;

  constructor(connection: Connection, owner: string | undefined, guard: Guard) {
    this.#connection = connection;
    this.#owner = owner;
    this.#guard = guard;
    this.#select = connection.prepare<[string]>(
      `SELECT path, narHash, narSize, deriver, registrationTime, ultimate, signatures, ca,
         (SELECT json_group_array(path) FROM
           (SELECT target.path FROM refs JOIN paths target ON target.id = refs.reference
            WHERE refs.referrer = paths.id ORDER BY target.path)) AS refs
       FROM paths WHERE path = ? AND narHash <> '${suspended}'`,
    );
    this.#selectRecorded = connection.prepare<[string]>(
      `SELECT path FROM paths WHERE path IN (SELECT value FROM json_each(?)) AND narHash <> '${suspended}'`,
    );
    this.#selectClosure = connection.prepare<[string]>(
      `WITH RECURSIVE found (id) AS (
         SELECT paths.id FROM json_each(?) JOIN paths ON paths.path = value
         UNION SELECT refs.reference FROM found JOIN refs ON refs.referrer = found.id)
       SELECT json_group_array(path) AS found FROM
         (SELECT path FROM found CROSS JOIN paths ON paths.id = found.id WHERE narHash <> '${suspended}' ORDER BY path)`,
    );
    this.#upsert = connection.prepare<[string]>(
      `INSERT INTO paths (path, narHash, narSize, deriver, registrationTime, ultimate, signatures, ca)
       SELECT value ->> 'path', value ->> 'narHash', value ->> 'narSize', value ->> 'deriver', value ->> 'registrationTime',
         value ->> 'ultimate', value -> 'signatures', value ->> 'ca' FROM json_each(?) WHERE true
       ON CONFLICT (path) DO UPDATE SET narHash = excluded.narHash, narSize = excluded.narSize, deriver = excluded.deriver,
         registrationTime = excluded.registrationTime, ultimate = excluded.ultimate, signatures = excluded.signatures,
         ca = excluded.ca`,
    );
    this.#clearReferences = connection.prepare<[string]>(
      `DELETE FROM refs WHERE referrer IN
         (SELECT paths.id FROM json_each(?) JOIN paths ON paths.path = value ->> 'path')`,
    );
    this.#addReferences = connection.prepare<[string]>(
      // A reference without a record breaks NOT NULL, and with that the transaction.
      `INSERT INTO refs (referrer, reference)
       SELECT (SELECT id FROM paths WHERE path = info.value ->> 'path'), (SELECT id FROM paths WHERE path = named.value)
       FROM json_each(?) info, json_each(info.value -> 'references') named WHERE true
       ON CONFLICT DO NOTHING`,
    );
    this.#selectMemo = connection.prepare<[string]>('SELECT value FROM memo WHERE key = ?');
  }

  query(path: StorePath): PathInfo | undefined {
    const row = this.#guard('read', () => this.#select.get(path)) as PathRow | undefined;
    if (!row) return undefined;
    return {
      path,
      narHash: row.narHash as NarHash,
      narSize: row.narSize,
      references: JSON.parse(row.refs) as StorePath[],
      ...(row.deriver === null ? {} : { deriver: row.deriver as StorePath }),
      registrationTime: row.registrationTime,
      ultimate: row.ultimate !== 0,
      signatures: JSON.parse(row.signatures) as string[],
      ...(row.ca === null ? {} : { ca: row.ca }),
    };
  }

  recorded(paths: readonly StorePath[]): StorePath[] {
    const rows = this.#guard('read', () => this.#selectRecorded.all(JSON.stringify(paths))) as readonly {
      readonly path: StorePath;
    }[];
    return rows.map(({ path }) => path);
  }

  pathWith(hashPart: string): StorePath | undefined {
    // A dot is what comes after the dash.
    const [from, to] = [`${storeDir}/${hashPart}-`, `${storeDir}/${hashPart}.`];
    return this.#column('SELECT path AS found FROM paths WHERE path > ? AND path < ? LIMIT 1', from, to)[0];
  }

  closure(paths: readonly StorePath[]): StorePath[] {
    const row = this.#guard('read', () => this.#selectClosure.get(JSON.stringify(paths))) as {
      readonly found: string;
    };
    return JSON.parse(row.found) as StorePath[];
  }

  record(infos: readonly PathInfo[]): void {
    this.#write(() => this.#recordAll(infos));
  }

  suspend(paths: readonly StorePath[]): void {
    this.#write(() =>
      this.#connection
        .prepare<[string]>(
          `UPDATE paths SET narHash = '${suspended}' WHERE path IN (SELECT value FROM json_each(?))`,
        )
        .run(JSON.stringify(paths)),
    );
  }

  #write<T>(work: () => T): T {
    return this.#guard('write', () => transaction(this.#connection, work));
  }

  /** One statement for all of them: a call for each takes longer than SQLite does. */
  #recordAll(infos: readonly PathInfo[]): void {
    const list = JSON.stringify(infos);
    this.#upsert.run(list);
    this.#clearReferences.run(list);
    this.#addReferences.run(list);
  }

  paths(): StorePath[] {
    return this.#column(`SELECT path AS found FROM paths WHERE narHash <> '${suspended}' ORDER BY path`);
  }

  isEmpty(): boolean {
    return this.#column('SELECT path AS found FROM paths LIMIT 1').length === 0;
  }

  records(): StorePath[] {
    return this.#column('SELECT path AS found FROM paths');
  }

  referrers(path: StorePath): StorePath[] {
    return this.#column(
      `SELECT source.path AS found FROM refs
         JOIN paths target ON target.id = refs.reference
         JOIN paths source ON source.id = refs.referrer
       WHERE target.path = ? AND source.id <> target.id AND source.narHash <> '${suspended}' ORDER BY source.path`,
      path,
    );
  }

  #column<T extends string = StorePath>(query: string, ...parameters: string[]): T[] {
    const rows = this.#guard('read', () =>
      this.#connection.prepare<string[]>(query).all(...parameters),
    ) as readonly { readonly found: T }[];
    return rows.map(({ found }) => found);
  }

  hold(paths: readonly StorePath[]): void {
    const owner = this.#owner;
    const fresh = paths.filter((path) => !this.#held.has(path));
    if (fresh.length === 0 || owner === undefined) return;
    // A sync would only make it outlast the machine, and with the machine its owner is gone.
    this.#unsynced(() =>
      transaction(this.#connection, () =>
        this.#connection
          .prepare<[string, string]>(
            'INSERT OR IGNORE INTO holds (owner, path) SELECT ?, value FROM json_each(?)',
          )
          .run(owner, JSON.stringify(fresh)),
      ),
    );
    for (const path of fresh) this.#held.add(path);
  }

  /** Writes what need not be on disk when flk goes on; other processes see it at once all the same. */
  #unsynced(work: () => void): void {
    this.#guard('write', () => {
      this.#connection.exec('PRAGMA synchronous = NORMAL');
      try {
        work();
      } finally {
        this.#connection.exec('PRAGMA synchronous = FULL');
      }
    });
  }

  get #self(): string {
    if (this.#owner === undefined)
      throw new FlkError('FLK_INTERNAL', 'a database that is only read was written');
    return this.#owner;
  }

  heldByOthers(): readonly { readonly owner: string; readonly path: StorePath }[] {
    // Who only reads does not change that.
    if (!hasHolds(this.#connection)) return [];
    return this.#guard('read', () =>
      this.#connection
        .prepare<[string]>('SELECT owner, path FROM holds JOIN paths USING (path) WHERE owner <> ?')
        .all(this.#owner ?? ''),
    ) as { owner: string; path: StorePath }[];
  }

  owners(): string[] {
    // Jumps from owner to owner: each may hold thousands.
    return this.#column<string>(
      `WITH RECURSIVE next (owner) AS (
         SELECT min(owner) FROM holds
         UNION SELECT (SELECT min(holds.owner) FROM holds WHERE holds.owner > next.owner) FROM next WHERE owner IS NOT NULL)
       SELECT owner AS found FROM next WHERE owner IS NOT NULL UNION SELECT owner FROM collector`,
    );
  }

  purge(owners: readonly string[]): void {
    this.#write(() => {
      const list = JSON.stringify(owners);
      const isGone = 'owner IN (SELECT value FROM json_each(?))';
      this.#connection.prepare<[string]>(`DELETE FROM collector WHERE ${isGone}`).run(list);
      this.#connection
        .prepare<[string]>(`DELETE FROM holds WHERE ${isGone} AND NOT EXISTS (SELECT 1 FROM collector)`)
        .run(list);
    });
  }

  beginCollection(gone: readonly string[]): void {
    this.#write(() => {
      this.#connection
        .prepare<[string]>('DELETE FROM holds WHERE owner IN (SELECT value FROM json_each(?))')
        .run(JSON.stringify(gone));
      this.#connection
        .prepare<[string]>('INSERT OR REPLACE INTO collector (id, owner) VALUES (1, ?)')
        .run(this.#self);
    });
  }

  endCollection(): void {
    this.#write(() =>
      this.#connection.prepare<[string]>('DELETE FROM collector WHERE owner = ?').run(this.#self),
    );
  }

  removeUnneeded(paths: readonly StorePath[]): StorePath[] {
    return this.#write(() => {
      const unneeded = this.#column(
        `WITH RECURSIVE
           candidate (id) AS MATERIALIZED (
             SELECT id FROM paths WHERE path IN (SELECT value FROM json_each(?))),
           alive (id) AS (
             SELECT candidate.id FROM candidate JOIN paths USING (id) WHERE path IN (SELECT path FROM holds)
             UNION
             SELECT candidate.id FROM candidate JOIN refs ON refs.reference = candidate.id
               WHERE refs.referrer NOT IN (SELECT id FROM candidate)
             UNION
             SELECT refs.reference FROM alive JOIN refs ON refs.referrer = alive.id)
         SELECT path AS found FROM paths
           WHERE id IN (SELECT id FROM candidate) AND id NOT IN (SELECT id FROM alive) ORDER BY path`,
        JSON.stringify(paths),
      );
      // In one statement, for they refer to each other.
      this.#connection
        .prepare<[string]>('DELETE FROM paths WHERE path IN (SELECT value FROM json_each(?))')
        .run(JSON.stringify(unneeded));
      return unneeded;
    });
  }

  withUnclaimed(paths: readonly StorePath[], work: (unclaimed: readonly StorePath[]) => void): void {
    this.#write(() =>
      work(
        this.#column(
          `SELECT value AS found FROM json_each(?)
             WHERE value NOT IN (SELECT path FROM paths) AND value NOT IN (SELECT path FROM holds)`,
          JSON.stringify(paths),
        ),
      ),
    );
  }

  faults(): string[] {
    return this.#guard('check', () => {
      const integrity = this.#connection.prepare('PRAGMA integrity_check(20)').all() as readonly {
        readonly integrity_check: string;
      }[];
      const dangling = this.#connection.prepare('PRAGMA foreign_key_check').all().length;
      return [
        ...integrity.map((row) => row.integrity_check).filter((text) => text !== 'ok'),
        ...(dangling > 0 ? [`${dangling} rows refer to rows that are not there`] : []),
      ];
    });
  }

  memo(key: string): string | undefined {
    if (this.#owner === undefined && this.#memos.has(key)) return this.#memos.get(key);
    const row = this.#guard('read', () => this.#selectMemo.get(key)) as
      | { readonly value: string }
      | undefined;
    return row?.value;
  }

  setMemo(key: string, value: string, about?: StorePath): void {
    if (this.#owner === undefined) this.#memos.set(key, value);
    // What the machine's end may take away is found out again.
    else
      this.#unsynced(() =>
        this.#connection
          .prepare<[string, string, string | null, number]>(
            'INSERT OR REPLACE INTO memo (key, value, about, written) VALUES (?, ?, ?, ?)',
          )
          .run(key, value, about ?? null, Date.now()),
      );
  }

  removeMemos(before: number, most: number): number {
    return this.#write(
      () =>
        this.#connection
          .prepare<[number, number]>(
            `DELETE FROM memo WHERE about NOT IN (SELECT path FROM paths) OR about IS NULL AND (written < ? OR key NOT IN
               (SELECT key FROM memo WHERE about IS NULL ORDER BY written DESC, key LIMIT ?))`,
          )
          .run(before, most).changes,
    );
  }

  close(): void {
    // A sweep that runs has perhaps looked for roots already, and not seen those that this owner leaves behind.
    try {
      if (this.#held.size > 0) {
        // As little need to last as for the holds themselves.
        this.#connection.exec('PRAGMA synchronous = NORMAL');
        this.#write(() =>
          this.#connection
            .prepare<[string]>('DELETE FROM holds WHERE owner = ? AND NOT EXISTS (SELECT 1 FROM collector)')
            .run(this.#self),
        );
      }
    } catch {
      // On a full disk, say: they go when this process is gone.
    }
    this.#held.clear();
    this.#connection.close();
  }
}
