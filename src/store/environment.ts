/**
 * A profile's environment: one tree of symlinks into several packages. Rules and bytes are those of Nix's `buildenv` (2.34): a folder
 * that one package alone has becomes a single link; of two files at one place the better priority, the lower number, wins.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { compareBytes } from '../base/canonical.ts';
import { FlkError } from '../base/errors.ts';
import type { Tree } from '../formats/nar.ts';
import { parseStorePath, type StorePath, storeDir } from '../formats/store-path.ts';
import type { Store } from './store.ts';

export interface EnvironmentPackage {
  readonly path: StorePath;
  /** The lower number wins. */
  readonly priority: number;
  /** As the profile calls it, for errors. */
  readonly name: string;
  /** It was not there before: where it collides, the other one may have to go. */
  readonly isNew: boolean;
}

/** Paths and names are latin1, one character a byte. */
interface Folder {
  readonly kind: 'folder';
  readonly entries: Map<string, Node>;
}
interface Link {
  readonly kind: 'link';
  /** Logical. */
  readonly target: string;
  readonly priority: number;
  readonly owner: Owner;
}
type Owner = Pick<EnvironmentPackage, 'name' | 'isNew'>;
type Node = Folder | Link | { readonly kind: 'file'; readonly bytes: Buffer };

/** What would meet in every environment and is of no use there; ends of paths. */
const leftOut = [
  '/propagated-build-inputs',
  '/nix-support',
  '/perllocal.pod',
  '/info/dir',
  '/log',
  '/manifest.nix',
  '/manifest.json',
];

/**
 * The tree over these packages, which must be valid, with these files at its top. Throws FLK_PROFILE_COLLISION, naming the place,
 * both packages and what mends it.
 */
export function environmentTree(
  store: Store,
  packages: readonly EnvironmentPackage[],
  files: ReadonlyMap<string, Buffer>,
): Tree {
  const environment = new Environment(store);
  environment.addAll(packages);
  for (const [name, bytes] of files) environment.root.entries.set(name, { kind: 'file', bytes });
  return treeOf(environment.root);
}

class Environment {
  readonly root: Folder = { kind: 'folder', entries: new Map() };
  readonly #store: Store;
  readonly #done = new Set<StorePath>();

  constructor(store: Store) {
    this.#store = store;
  }

  addAll(packages: readonly EnvironmentPackage[]): void {
    const ordered = [...packages].sort((a, b) => a.priority - b.priority || compareBytes(a.path, b.path));
    let wanted = new Map<StorePath, Owner>();
    for (const owner of ordered) this.#addPackage(owner.path, owner.priority, owner, wanted);
    // What packages want to be there with them comes last and loses against everything.
    for (let priority = 1000; wanted.size > 0; ) {
      const more = new Map<StorePath, Owner>();
      for (const path of [...wanted.keys()].sort(compareBytes))
        this.#addPackage(path, priority++, wanted.get(path)!, more);
      wanted = more;
    }
  }

  #addPackage(path: StorePath, priority: number, owner: Owner, wanted: Map<StorePath, Owner>): void {
    if (this.#done.has(path)) return;
    this.#done.add(path);
    this.#unite(path, this.root, '', priority, owner);
    for (const more of this.#propagated(path)) if (!this.#done.has(more)) wanted.set(more, owner);
  }

  /** What `nix-support/propagated-user-env-packages` lists, as far as the package refers to it. */
  #propagated(path: StorePath): StorePath[] {
    const found = this.#follow(`${path}/nix-support/propagated-user-env-packages`);
    if (!found || found.isFolder) return [];
    return readFileSync(onDisk(found.place), 'latin1')
      .split(/[ \n]+/)
      .filter((word) => word !== '')
      .map(parseStorePath)
      .filter((more) => this.#store.query(more) !== undefined);
  }

  /** Links everything in the folder `from` into `into`, which lies at `path` of the environment. */
  #unite(from: string, into: Folder, path: string, priority: number, owner: Owner): void {
    const folder = this.#follow(from);
    // A package that is a single file has nothing that an environment could hold.
    if (!folder?.isFolder) return;
    const names = readdirSync(onDisk(folder.place), { encoding: 'latin1' }).sort();
    for (const name of names) {
      const source = `${from}/${name}`;
      if (name.startsWith('.') || leftOut.some((end) => source.endsWith(end))) continue;
      const found = this.#follow(source);
      // A link that leads nowhere.
      if (!found) continue;
      const place = path === '' ? name : `${path}/${name}`;
      const there = into.entries.get(name);
      const link: Link = { kind: 'link', target: source, priority, owner };
      if (there === undefined) into.entries.set(name, link);
      else if (there.kind === 'folder') {
        if (!found.isFolder) throw this.#collision(place, link, undefined);
        this.#unite(source, there, place, priority, owner);
      } else if (there.kind === 'link') this.#meet(into, name, place, there, link, found.isFolder);
    }
  }

  /** A second package at a place where there is one link. */
  #meet(into: Folder, name: string, place: string, there: Link, link: Link, isFolder: boolean): void {
    const known = this.#follow(there.target);
    if (isFolder !== (known?.isFolder ?? false)) throw this.#collision(place, there, link);
    if (!isFolder) {
      if (there.priority === link.priority) throw this.#collision(place, there, link);
      if (link.priority < there.priority) into.entries.set(name, link);
      return;
    }
    const both: Folder = { kind: 'folder', entries: new Map() };
    into.entries.set(name, both);
    this.#unite(known!.path, both, place, there.priority, there.owner);
    this.#unite(link.target, both, place, link.priority, link.owner);
  }

  #collision(place: string, a: Link, b: Link | undefined): FlkError {
    const shown = (text: string): string => Buffer.from(text, 'latin1').toString();
    if (b === undefined)
      return new FlkError(
        'FLK_PROFILE_COLLISION',
        `${shown(place)} is a folder in other packages, and no folder in ${a.owner.name}`,
        { facts: { [a.owner.name]: shown(a.target) }, hint: `flk profile remove ${a.owner.name}` },
      );
    const isOne = a.owner.name === b.owner.name;
    const names = isOne ? [`${a.owner.name} (1)`, `${b.owner.name} (2)`] : [a.owner.name, b.owner.name];
    const known = [a.owner, b.owner].find(({ isNew }) => !isNew) ?? a.owner;
    const removes = `flk profile remove ${known.name}`;
    return new FlkError('FLK_PROFILE_COLLISION', `${names.join(' and ')} both have ${shown(place)}`, {
      facts: Object.fromEntries(names.map((name, i) => [name, shown([a, b][i]!.target)])),
      hint:
        a.priority === b.priority && !isOne
          ? `install the one that should win with --priority ${a.priority - 1}, or ${removes}`
          : removes,
    });
  }

  #follow(path: string): Followed | undefined {
    return followInStore(this.#store, path);
  }
}

/** Where a logical path leads in the end. */
export interface Followed {
  /** Logical, no link on the way. */
  readonly path: string;
  /** On disk. */
  readonly place: string;
  readonly isFolder: boolean;
}

const maxLinks = 40;

/**
 * Follows the links in a logical path as a machine with this store at /nix/store would; undefined where it leads nowhere. Paths are
 * latin1, one character a byte.
 */
export function followInStore(store: Pick<Store, 'root'>, path: string): Followed | undefined {
  const root = Buffer.from(store.root).toString('latin1');
  const placeOf = (logical: string): string =>
    logical.startsWith(`${storeDir}/`) ? root + logical : logical;
  let at = '';
  let isFolder = true;
  let links = 0;
  let rest = path.split('/');
  while (rest.length > 0) {
    const [name = '', ...others] = rest;
    rest = others;
    if (name === '' || name === '.') continue;
    if (!isFolder) return undefined;
    if (name === '..') {
      at = at.slice(0, at.lastIndexOf('/'));
      continue;
    }
    const next = `${at}/${name}`;
    // On a machine that has the store elsewhere, these two are not there.
    if (storeDir === next || storeDir.startsWith(`${next}/`)) {
      at = next;
      continue;
    }
    try {
      const info = lstatSync(onDisk(placeOf(next)));
      if (info.isSymbolicLink()) {
        if (++links > maxLinks) return undefined;
        const target = readlinkSync(onDisk(placeOf(next)), 'latin1');
        if (target.startsWith('/')) at = '';
        rest = [...target.split('/'), ...rest];
      } else {
        isFolder = info.isDirectory();
        at = next;
      }
    } catch {
      return undefined;
    }
  }
  return { path: at, place: placeOf(at), isFolder };
}

const onDisk = (path: string): Buffer => Buffer.from(path, 'latin1');

function treeOf(root: Folder): Tree {
  return {
    walk: async (sink) => {
      const visit = (node: Node): void => {
        if (node.kind === 'link') sink.symlink(onDisk(node.target));
        else if (node.kind === 'file') {
          sink.file(node.bytes.length, false);
          if (node.bytes.length > 0) sink.data(node.bytes);
          sink.endFile();
        } else {
          sink.directory();
          for (const name of [...node.entries.keys()].sort()) {
            sink.entry(onDisk(name));
            visit(node.entries.get(name)!);
          }
          sink.endDirectory();
        }
      };
      visit(root);
    },
  };
}
