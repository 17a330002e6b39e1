/**
 * The store's records, in one SQLite file (libsql, write-ahead log): safe with many processes, and after a kill at any moment either
 * all of a transaction is there or nothing.
 */
import type { Database as Connection } from 'libsql';
import { FlkError } from '../base/errors.ts';
import type { NarHash } from '../formats/hash.ts';
import { type StorePath, storeDir } from '../formats/store-path.ts';
import type { PathInfo } from './path-info.ts';

/** In the file's header (`user_version`). Counts up with every change that an older flk would misread. */
const schemaVersion = 1;
/** Writes take milliseconds; whoever waits longer waits for a process that was stopped. */
const busyTimeout = 60_000;

const schema = `
  CREATE TABLE paths (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    narHash TEXT NOT NULL,
    narSize INTEGER NOT NULL,
    deriver TEXT,
    registrationTime INTEGER NOT NULL,
    ultimate INTEGER NOT NULL,
    signatures TEXT NOT NULL,
    ca TEXT
  ) STRICT;
  CREATE TABLE refs (
    referrer INTEGER NOT NULL REFERENCES paths (id) ON DELETE CASCADE,
    reference INTEGER NOT NULL REFERENCES paths (id),
    PRIMARY KEY (referrer, reference)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX referrers ON refs (reference);
  CREATE TABLE memo (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  PRAGMA user_version = ${schemaVersion};
`;

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
  /** The recorded path with this hash part. */
  pathWith(hashPart: string): StorePath | undefined;
  /** Records all of them or none. A path that is recorded already is recorded anew. References must be recorded, or be among them. */
  record(infos: readonly PathInfo[]): void;
  /** Sorted. */
  paths(): StorePath[];
  /** Without the path itself; sorted. */
  referrers(path: StorePath): StorePath[];
  /** Notes that this process uses them. */
  hold(paths: readonly StorePath[]): void;
  memo(key: string): string | undefined;
  setMemo(key: string, value: string): void;
  close(): void;
}

/** Opens or creates the file; its folder must exist. Throws FLK_STORE_INVALID, naming the file. */
export async function openDatabase(file: string): Promise<StoreDatabase> {
  const { default: Database } = await import('libsql');
  const guard = <T>(what: string, work: () => T): T => {
    try {
      return work();
    } catch (error) {
      if (error instanceof FlkError) throw error;
      throw new FlkError(
        'FLK_STORE_INVALID',
        `cannot ${what} the store's database ${file}: ${(error as Error).message}`,
        {
          cause: error,
          hint: 'check that you own the store’s folder and that its disk has space',
        },
      );
    }
  };
  const connection = guard('open', () => {
    const opened = new Database(file);
    try {
      prepare(opened, file);
      return opened;
    } catch (error) {
      opened.close();
      throw error;
    }
  });
  return new SqliteRecords(connection, guard);
}

function prepare(connection: Connection, file: string): void {
  connection.exec(`PRAGMA busy_timeout = ${busyTimeout}`);
  const version = (): number =>
    (connection.prepare('PRAGMA user_version').get() as { user_version: number }).user_version;
  if (version() === 0) {
    connection.exec('PRAGMA journal_mode = WAL');
    // Another process may have been first.
    transaction(connection, () => {
      if (version() === 0) connection.exec(schema);
    });
  }
  if (version() !== schemaVersion)
    throw new FlkError('FLK_STORE_INVALID', `${file} was made by another version of flk`, {
      facts: { found: String(version()), wanted: String(schemaVersion) },
      hint: 'update flk, or choose another store with --store',
    });
  // A commit is on disk before flk goes on, as everything else that flk writes.
  connection.exec('PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON');
}

function transaction(connection: Connection, work: () => void): void {
  connection.exec('BEGIN IMMEDIATE');
  try {
    work();
    connection.exec('COMMIT');
  } catch (error) {
    // A full disk ends the transaction by itself.
    if (connection.inTransaction) connection.exec('ROLLBACK');
    throw error;
  }
}

type Guard = <T>(what: string, work: () => T) => T;

class SqliteRecords implements StoreDatabase {
  readonly #connection: Connection;
  readonly #guard: Guard;
  readonly #select;
  readonly #upsert;
  readonly #clearReferences;
  readonly #addReference;
  readonly #selectMemo;
  readonly #upsertMemo;

  constructor(connection: Connection, guard: Guard) {
    this.#connection = connection;
    this.#guard = guard;
    this.#select = connection.prepare<[string]>(
      `SELECT path, narHash, narSize, deriver, registrationTime, ultimate, signatures, ca,
         (SELECT json_group_array(path) FROM
           (SELECT target.path FROM refs JOIN paths target ON target.id = refs.reference
            WHERE refs.referrer = paths.id ORDER BY target.path)) AS refs
       FROM paths WHERE path = ?`,
    );
    this.#upsert = connection.prepare<
      [string, string, number, string | null, number, number, string, string | null]
    >(
      `INSERT INTO paths (path, narHash, narSize, deriver, registrationTime, ultimate, signatures, ca)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (path) DO UPDATE SET narHash = excluded.narHash, narSize = excluded.narSize, deriver = excluded.deriver,
         registrationTime = excluded.registrationTime, ultimate = excluded.ultimate, signatures = excluded.signatures,
         ca = excluded.ca`,
    );
    this.#clearReferences = connection.prepare<[string]>(
      'DELETE FROM refs WHERE referrer = (SELECT id FROM paths WHERE path = ?)',
    );
    this.#addReference = connection.prepare<[string, string]>(
      // A reference without a record breaks NOT NULL, and with that the transaction.
      `INSERT INTO refs (referrer, reference)
       VALUES ((SELECT id FROM paths WHERE path = ?), (SELECT id FROM paths WHERE path = ?))
       ON CONFLICT DO NOTHING`,
    );
    this.#selectMemo = connection.prepare<[string]>('SELECT value FROM memo WHERE key = ?');
    this.#upsertMemo = connection.prepare<[string, string]>(
      'INSERT OR REPLACE INTO memo (key, value) VALUES (?, ?)',
    );
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

  pathWith(hashPart: string): StorePath | undefined {
    // A dot is what comes after the dash.
    const [from, to] = [`${storeDir}/${hashPart}-`, `${storeDir}/${hashPart}.`];
    return this.#column('SELECT path AS found FROM paths WHERE path > ? AND path < ? LIMIT 1', from, to)[0];
  }

  record(infos: readonly PathInfo[]): void {
    this.#guard('write', () => transaction(this.#connection, () => this.#recordAll(infos)));
  }

  #recordAll(infos: readonly PathInfo[]): void {
    for (const info of infos) {
      this.#upsert.run(
        info.path,
        info.narHash,
        info.narSize,
        info.deriver ?? null,
        info.registrationTime,
        info.ultimate ? 1 : 0,
        JSON.stringify(info.signatures),
        info.ca ?? null,
      );
      this.#clearReferences.run(info.path);
    }
    for (const info of infos)
      for (const reference of info.references) this.#addReference.run(info.path, reference);
  }

  paths(): StorePath[] {
    return this.#column('SELECT path AS found FROM paths ORDER BY path');
  }

  referrers(path: StorePath): StorePath[] {
    return this.#column(
      `SELECT source.path AS found FROM refs
         JOIN paths target ON target.id = refs.reference
         JOIN paths source ON source.id = refs.referrer
       WHERE target.path = ? AND source.id <> target.id ORDER BY source.path`,
      path,
    );
  }

  #column(query: string, ...parameters: string[]): StorePath[] {
    const rows = this.#guard('read', () =>
      this.#connection.prepare<string[]>(query).all(...parameters),
    ) as readonly { readonly found: StorePath }[];
    return rows.map(({ found }) => found);
  }

  hold(_paths: readonly StorePath[]): void {}

  memo(key: string): string | undefined {
    const row = this.#guard('read', () => this.#selectMemo.get(key)) as
      | { readonly value: string }
      | undefined;
    return row?.value;
  }

  setMemo(key: string, value: string): void {
    this.#guard('write', () => this.#upsertMemo.run(key, value));
  }

  close(): void {
    this.#connection.close();
  }
}
