/**
 * What caches on servers answered, kept between runs: which paths they have and, for a shorter time, which they have not. All of it may
 * be lost at any time; nothing in it is believed more than the cache itself would be.
 */
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Database as Connection } from 'libsql';
import { makeFolder } from '../../base/files.ts';
import { type NarInfo, parseNarInfo, printNarInfo } from '../../formats/narinfo.ts';
import { hashPart, type StorePath } from '../../formats/store-path.ts';
import type { CacheInfo } from './cache.ts';

/** In seconds. Nix's defaults. */
export interface AnswerLifetimes {
  /** That a cache has a path. */
  readonly positive: number;
  /** That it has not. */
  readonly negative: number;
  /** Nothing that was answered in earlier runs counts. */
  readonly refresh?: boolean;
}

/** Answers that are written at once: to write each by itself takes longer than to ask for it. */
const writtenAtOnce = 500;
/** Seconds for which a cache's own description counts, as in Nix. */
const infoLifetime = 7 * 86_400;

const schemaVersion = 1;
const schema = `
  CREATE TABLE caches (
    url TEXT PRIMARY KEY, time INTEGER NOT NULL, priority INTEGER NOT NULL, wantMassQuery INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE narinfos (
    url TEXT NOT NULL, hashPart TEXT NOT NULL, time INTEGER NOT NULL, text TEXT, PRIMARY KEY (url, hashPart)
  ) STRICT, WITHOUT ROWID;
  PRAGMA user_version = ${schemaVersion};
`;

export interface CacheAnswers {
  info(url: string): CacheInfo | undefined;
  setInfo(url: string, info: CacheInfo): void;
  /** Null: the cache said that it has no such path. Undefined: it has to be asked. */
  narInfo(url: string, path: StorePath): NarInfo | null | undefined;
  setNarInfo(url: string, path: StorePath, info: NarInfo | null): void;
  close(): void;
}

/** Opens or creates the file. One that is damaged is made anew; where none can be had, nothing is remembered. */
export async function openAnswers(file: string, lifetimes: AnswerLifetimes): Promise<CacheAnswers> {
  for (const attempt of ['first', 'anew'] as const)
    try {
      await makeFolder(dirname(file));
      if (attempt === 'anew')
        for (const name of [file, `${file}-wal`, `${file}-shm`]) await rm(name, { force: true });
      return await SqliteAnswers.open(file, lifetimes);
    } catch {
      // A file in the cache folder is worth nobody's attention.
    }
  return forgetful;
}

/** Remembers nothing. */
export const forgetful: CacheAnswers = {
  info: () => undefined,
  setInfo: () => {},
  narInfo: () => undefined,
  setNarInfo: () => {},
  close: () => {},
};

class SqliteAnswers implements CacheAnswers {
  readonly #connection: Connection;
  readonly #lifetimes: AnswerLifetimes;
  /** Seconds since 1970; answers from before do not count. */
  readonly #begin: number;
  readonly #selectInfo;
  readonly #selectNarInfo;
  readonly #upsertInfo;
  readonly #upsertNarInfos;
  /** Answers that are not written yet, as url, hash part, time, text; by the first two. */
  readonly #waiting = new Map<string, readonly [string, string, number, string | null]>();

  private constructor(connection: Connection, lifetimes: AnswerLifetimes) {
    this.#connection = connection;
    this.#lifetimes = lifetimes;
    this.#begin = lifetimes.refresh ? now() - 1 : 0;
    this.#selectInfo = connection.prepare<[string, number]>(
      'SELECT priority, wantMassQuery FROM caches WHERE url = ? AND time > ?',
    );
    this.#selectNarInfo = connection.prepare<[string, string, number, number]>(
      'SELECT text FROM narinfos WHERE url = ? AND hashPart = ? AND time > CASE WHEN text IS NULL THEN ? ELSE ? END',
    );
    this.#upsertInfo = connection.prepare<[string, number, number, number]>(
      'INSERT OR REPLACE INTO caches (url, time, priority, wantMassQuery) VALUES (?, ?, ?, ?)',
    );
    this.#upsertNarInfos = connection.prepare<[string]>(
      `INSERT OR REPLACE INTO narinfos (url, hashPart, time, text)
       SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)`,
    );
  }

  static async open(file: string, lifetimes: AnswerLifetimes): Promise<SqliteAnswers> {
    const Database = (await import('../libsql.ts')).loadLibsql();
    const connection = new Database(file);
    try {
      connection.exec('PRAGMA busy_timeout = 5000');
      const version = (): number =>
        (connection.prepare('PRAGMA user_version').get() as { user_version: number }).user_version;
      if (version() === 0) {
        connection.exec('PRAGMA journal_mode = WAL');
        connection.exec('BEGIN IMMEDIATE');
        // Another process may have been first.
        if (version() === 0) connection.exec(schema);
        connection.exec('COMMIT');
      }
      if (version() !== schemaVersion) throw new Error('made by another version of flk');
      // What a power cut takes is asked again.
      connection.exec('PRAGMA synchronous = OFF');
      const past = now() - Math.max(lifetimes.positive, lifetimes.negative, infoLifetime);
      connection.prepare<[number]>('DELETE FROM narinfos WHERE time < ?').run(past);
      return new SqliteAnswers(connection, lifetimes);
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  info(url: string): CacheInfo | undefined {
    const row = this.#try(() => this.#selectInfo.get(url, this.#since(infoLifetime))) as
      | { readonly priority: number; readonly wantMassQuery: number }
      | undefined;
    return row && { priority: row.priority, wantMassQuery: row.wantMassQuery !== 0 };
  }

  setInfo(url: string, { priority, wantMassQuery }: CacheInfo): void {
    this.#try(() => this.#upsertInfo.run(url, now(), priority, wantMassQuery ? 1 : 0));
  }

  narInfo(url: string, path: StorePath): NarInfo | null | undefined {
    const { positive, negative } = this.#lifetimes;
    const waiting = this.#waiting.get(`${hashPart(path)} ${url}`);
    if (waiting) return waiting[3] === null ? null : parseNarInfo(waiting[3], path);
    return this.#try(() => {
      const row = this.#selectNarInfo.get(
        url,
        hashPart(path),
        this.#since(negative),
        this.#since(positive),
      ) as { readonly text: string | null } | undefined;
      return row?.text ? parseNarInfo(row.text, path) : row && null;
    });
  }

  setNarInfo(url: string, path: StorePath, info: NarInfo | null): void {
    const hash = hashPart(path);
    this.#waiting.set(`${hash} ${url}`, [url, hash, now(), info && printNarInfo(info)]);
    if (this.#waiting.size >= writtenAtOnce) this.#write();
  }

  #write(): void {
    const rows = [...this.#waiting.values()];
    this.#waiting.clear();
    if (rows.length > 0) this.#try(() => this.#upsertNarInfos.run(JSON.stringify(rows)));
  }

  close(): void {
    this.#write();
    this.#connection.close();
  }

  #since(lifetime: number): number {
    return Math.max(this.#begin, now() - lifetime);
  }

  /** Another process may hold the file for long, or the disk be full: then there is no answer. */
  #try<T>(work: () => T): T | undefined {
    try {
      return work();
    } catch {
      return undefined;
    }
  }
}

const now = (): number => Math.floor(Date.now() / 1000);
