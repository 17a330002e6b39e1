/**
 * Builds Git repositories from recipes: fixed author, date and content, so that every commit has one id on every machine, and
 * that id is asserted. The objects are made here, byte by byte, because no Git command writes all we need (names that are not
 * UTF-8, empty folders) alike everywhere; no configuration of the machine has a say.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { deflateSync } from 'node:zlib';

/**
 * What stands at a path: text or bytes of a regular file, one of the special kinds below, or null to remove it.
 * @typedef {string | Buffer | Executable | Symlink | Submodule | EmptyFolder | null} Content
 * @typedef {{ kind: 'executable', data: string | Buffer }} Executable
 * @typedef {{ kind: 'symlink', target: string | Buffer }} Symlink
 * @typedef {{ kind: 'submodule', rev: string }} Submodule
 * @typedef {{ kind: 'folder' }} EmptyFolder
 */

/**
 * Path → content. Pairs instead of an object where a name is not UTF-8. `/` separates folders.
 * @typedef {Record<string, Content> | readonly (readonly [string | Buffer, Content])[]} Files
 */

/**
 * @typedef {object} Commit
 * @property {string} id Its name within the recipe.
 * @property {string} date ISO 8601, UTC: author's and committer's.
 * @property {string} [message] Default: the id.
 * @property {string | null} [parent] Id of the parent; default: the commit before it in the list; null: none.
 * @property {Files} files Laid over the parent's.
 * @property {string | null} [branch] The branch that points here afterwards; default `main`, null for none.
 * @property {readonly (string | { name: string, message: string, expect: string })[]} [tags] Light by name, annotated by object.
 * @property {number} [phase] The history is published in steps: a commit exists from this phase on. Default 1.
 * @property {string} expect The commit's id in Git, when built for `canonicalBase`.
 */

/**
 * How to write a flake's manifest, so that one recipe can serve flk and Nix.
 * @typedef {(flake: { description?: string, inputs?: object }) => Record<string, string>} ManifestWriter
 */

/**
 * @typedef {object} Recipe
 * @property {string} name The repository's folder below the base URL.
 * @property {readonly Commit[]} commits
 */

/**
 * @typedef {object} World
 * @property {string} base What URLs begin with, after `git+`.
 * @property {'flake.yaml' | 'flake.nix'} manifest
 * @property {ManifestWriter} flake Writes that kind of manifest.
 */

/**
 * What a recipe module exports as `recipe`.
 * @typedef {(world: World) => Recipe} RecipeMaker
 */

/**
 * @typedef {object} Built
 * @property {string} name
 * @property {string} path The bare repository's folder.
 * @property {ReadonlyMap<string, string>} revs Commit id in the recipe → id in Git.
 * @property {ReadonlyMap<string, string>} refs `refs/heads/main` → object id.
 */

/** The base URL for which the recipes assert their hashes. */
const canonicalBase = 'https://git.flk.example';

/** @param {string | Buffer} data @returns {Executable} */
export const executable = (data) => ({ kind: 'executable', data });
/** @param {string | Buffer} target @returns {Symlink} */
export const symlink = (target) => ({ kind: 'symlink', target });
/** @param {string} rev @returns {Submodule} */
export const submodule = (rev) => ({ kind: 'submodule', rev });
/** @type {EmptyFolder} */
export const emptyFolder = { kind: 'folder' };

const person = 'Ada Example <ada@flk.example>';

/**
 * All recipes in `recipes/`, by file name without `.mjs`.
 * @returns {Promise<ReadonlyMap<string, RecipeMaker>>}
 */
export async function loadRecipes() {
  const folder = new URL('./recipes/', import.meta.url);
  const files = readdirSync(folder)
    .filter((file) => file.endsWith('.mjs'))
    .sort();
  const entries = await Promise.all(
    files.map(async (file) => {
      const module = await import(new URL(file, folder).href);
      return /** @type {[string, RecipeMaker]} */ ([file.slice(0, -'.mjs'.length), module.recipe]);
    }),
  );
  return new Map(entries);
}

/**
 * Builds one repository, bare, into `folder/NAME`; a repository that is there is replaced, and only what its refs reach exists.
 * @param {RecipeMaker} maker
 * @param {string} folder
 * @param {{ base?: string, phase?: number, manifest?: 'flake.yaml' | 'flake.nix', assertIds?: boolean }} [options]
 *   `base`: what URLs in manifests begin with. `phase`: how much of the history is published; default all.
 * @returns {Built}
 */
export function buildRepository(maker, folder, options = {}) {
  const { base = canonicalBase, phase = Infinity, manifest = 'flake.yaml', assertIds = true } = options;
  if (assertIds) assertExpectedIds(canonical(maker));
  const recipe = maker({ base, manifest, flake: manifestWriters[manifest] });
  const { objects, revs, refs } = history(recipe, phase);

  const path = join(folder, recipe.name);
  const staged = join(folder, `.${recipe.name}.${process.pid}.new`);
  rmSync(staged, { recursive: true, force: true });
  for (const part of ['objects/pack', 'objects/info', 'refs/heads', 'refs/tags'])
    mkdirSync(join(staged, part), { recursive: true });
  writeFileSync(join(staged, 'HEAD'), 'ref: refs/heads/main\n');
  writeFileSync(
    join(staged, 'config'),
    '[core]\n\trepositoryformatversion = 0\n\tbare = true\n[uploadpack]\n\tallowAnySHA1InWant = true\n\tallowFilter = true\n',
  );
  for (const [id, object] of objects) {
    const file = join(staged, 'objects', id.slice(0, 2), id.slice(2));
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, deflateSync(object, { level: 1 }));
  }
  for (const [ref, id] of refs) {
    mkdirSync(dirname(join(staged, ref)), { recursive: true });
    writeFileSync(join(staged, ref), `${id}\n`);
  }
  rmSync(path, { recursive: true, force: true });
  renameSync(staged, path);
  return { name: recipe.name, path, revs, refs };
}

/**
 * Every difference between the ids that a recipe promises and those that its content gives: `main/second: wanted …, found …`.
 * @param {Recipe} recipe as `canonical` gives it
 * @returns {string[]}
 */
export function idDifferences(recipe) {
  const { revs, tagIds } = history(recipe, Infinity, true);
  const differences = [];
  for (const commit of recipe.commits) {
    const found = revs.get(commit.id);
    if (found !== commit.expect) differences.push(`${commit.id}: wanted ${commit.expect}, found ${found}`);
    for (const tag of commit.tags ?? []) {
      if (typeof tag === 'string') continue;
      const tagId = tagIds.get(tag.name);
      if (tagId !== tag.expect) differences.push(`tag ${tag.name}: wanted ${tag.expect}, found ${tagId}`);
    }
  }
  return differences;
}

/**
 * The recipe as its promised ids mean it: with the canonical base, and flk's manifests.
 * @param {RecipeMaker} maker
 * @returns {Recipe}
 */
export const canonical = (maker) =>
  maker({ base: canonicalBase, manifest: 'flake.yaml', flake: manifestWriters['flake.yaml'] });

/** @param {Recipe} recipe */
function assertExpectedIds(recipe) {
  const differences = idDifferences(recipe);
  if (differences.length > 0)
    throw new Error(
      `recipe ${recipe.name} no longer builds what it promises:\n  ${differences.join('\n  ')}`,
    );
}

/**
 * A commit's files, parents' included: path bytes as latin1 → content.
 * @param {Recipe} recipe
 * @param {string} id
 * @returns {Map<string, Exclude<Content, null>>}
 */
function filesOf(recipe, id) {
  const index = recipe.commits.findIndex((commit) => commit.id === id);
  const commit = recipe.commits[index];
  if (!commit) throw new Error(`recipe ${recipe.name} has no commit ${id}`);
  const parent = parentOf(recipe, index);
  const files = parent === null ? new Map() : filesOf(recipe, parent);
  const changes = Array.isArray(commit.files) ? commit.files : Object.entries(commit.files);
  for (const [path, content] of changes) {
    const key = Buffer.from(path).toString('latin1');
    if (content === null) files.delete(key);
    else files.set(key, content);
  }
  return files;
}

/**
 * Writes a commit's files below `folder`, as a perfect checkout would: empty folders and odd names too.
 * @param {Recipe} recipe
 * @param {string} id
 * @param {string} folder
 */
export function writeFiles(recipe, id, folder) {
  mkdirSync(folder, { recursive: true });
  for (const [key, content] of filesOf(recipe, id)) {
    const path = Buffer.concat([Buffer.from(`${folder}/`), Buffer.from(key, 'latin1')]);
    mkdirSync(path.subarray(0, path.lastIndexOf('/')), { recursive: true });
    if (typeof content === 'string' || Buffer.isBuffer(content))
      writeFileSync(path, content, { mode: 0o644 });
    else if (content.kind === 'executable') writeFileSync(path, content.data, { mode: 0o755 });
    else if (content.kind === 'symlink') symlinkSync(content.target, path);
    else mkdirSync(path, { recursive: true });
  }
}

/** @param {Recipe} recipe @param {number} index @returns {string | null} */
function parentOf(recipe, index) {
  const { parent } = /** @type {Commit} */ (recipe.commits[index]);
  return parent === undefined ? (recipe.commits[index - 1]?.id ?? null) : parent;
}

/**
 * @param {Recipe} recipe
 * @param {number} phase
 * @param {boolean} [everything] Also commits that no ref reaches any more.
 */
function history(recipe, phase, everything = false) {
  /** @type {Map<string, string>} */
  const revs = new Map();
  /** @type {Map<string, string>} */
  const refs = new Map();
  /** @type {Map<string, string>} */
  const tagIds = new Map();
  /** Git id of a commit or annotated tag → the objects it adds, and the commit before it. */
  const made = new Map();

  recipe.commits.forEach((commit, index) => {
    if ((commit.phase ?? 1) > phase) return;
    /** @type {Map<string, Buffer>} */
    const objects = new Map();
    const parent = parentOf(recipe, index);
    const parentRev = parent === null ? undefined : revs.get(parent);
    if (parent !== null && parentRev === undefined)
      throw new Error(`recipe ${recipe.name}: parent ${parent} comes later`);
    const tree = addTree(objects, filesOf(recipe, commit.id));
    const time = `${Date.parse(commit.date) / 1000} +0000`;
    const rev = add(
      objects,
      'commit',
      Buffer.from(
        `tree ${tree}\n${parentRev ? `parent ${parentRev}\n` : ''}author ${person} ${time}\ncommitter ${person} ${time}\n\n${commit.message ?? commit.id}\n`,
      ),
    );
    revs.set(commit.id, rev);
    made.set(rev, { objects, before: parentRev });
    if (commit.branch !== null) refs.set(`refs/heads/${commit.branch ?? 'main'}`, rev);
    for (const tag of commit.tags ?? []) {
      if (typeof tag === 'string') {
        refs.set(`refs/tags/${tag}`, rev);
        continue;
      }
      /** @type {Map<string, Buffer>} */
      const tagObjects = new Map();
      const text = `object ${rev}\ntype commit\ntag ${tag.name}\ntagger ${person} ${time}\n\n${tag.message}\n`;
      const id = add(tagObjects, 'tag', Buffer.from(text));
      tagIds.set(tag.name, id);
      refs.set(`refs/tags/${tag.name}`, id);
      made.set(id, { objects: tagObjects, before: rev });
    }
  });

  /** @type {Map<string, Buffer>} */
  const objects = new Map();
  const starts = everything ? [...made.keys()] : [...refs.values()];
  for (const start of starts)
    for (let step = made.get(start); step; step = made.get(step.before))
      for (const [id, object] of step.objects) objects.set(id, object);
  return { objects, revs, refs, tagIds };
}

/**
 * @param {Map<string, Buffer>} objects
 * @param {Map<string, Exclude<Content, null>>} files
 * @returns {string}
 */
function addTree(objects, files) {
  /** @type {Map<string, { mode: string, id: string }>} */
  const entries = new Map();
  /** @type {Map<string, Map<string, Exclude<Content, null>>>} */
  const folders = new Map();
  for (const [path, content] of files) {
    const slash = path.indexOf('/');
    if (slash < 0) entries.set(path, addEntry(objects, content));
    else {
      const name = path.slice(0, slash);
      if (!folders.has(name)) folders.set(name, new Map());
      folders.get(name)?.set(path.slice(slash + 1), content);
    }
  }
  for (const [name, inside] of folders) entries.set(name, { mode: '40000', id: addTree(objects, inside) });
  // Git orders a folder as if its name ended in a slash.
  const rank = (/** @type {string} */ name) => (entries.get(name)?.mode === '40000' ? `${name}/` : name);
  const names = [...entries.keys()].sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  return add(
    objects,
    'tree',
    Buffer.concat(
      names.map((name) => {
        const entry = /** @type {{ mode: string, id: string }} */ (entries.get(name));
        return Buffer.concat([
          Buffer.from(`${entry.mode} ${name}\0`, 'latin1'),
          Buffer.from(entry.id, 'hex'),
        ]);
      }),
    ),
  );
}

/** @param {Map<string, Buffer>} objects @param {Exclude<Content, null>} content */
function addEntry(objects, content) {
  if (typeof content === 'string' || Buffer.isBuffer(content))
    return { mode: '100644', id: add(objects, 'blob', Buffer.from(content)) };
  if (content.kind === 'executable')
    return { mode: '100755', id: add(objects, 'blob', Buffer.from(content.data)) };
  if (content.kind === 'symlink')
    return { mode: '120000', id: add(objects, 'blob', Buffer.from(content.target)) };
  if (content.kind === 'submodule') return { mode: '160000', id: content.rev };
  return { mode: '40000', id: addTree(objects, new Map()) };
}

/** @param {Map<string, Buffer>} objects @param {string} type @param {Buffer} body @returns {string} */
function add(objects, type, body) {
  const object = Buffer.concat([Buffer.from(`${type} ${body.length}\0`), body]);
  const id = createHash('sha1').update(object).digest('hex');
  objects.set(id, object);
  return id;
}

/**
 * The two kinds of manifest.
 * @type {Record<'flake.yaml' | 'flake.nix', ManifestWriter>}
 */
export const manifestWriters = {
  'flake.yaml': (flake) => ({ 'flake.yaml': yaml(flake) }),
  'flake.nix': (flake) => ({ 'flake.nix': `${nix({ ...flake, outputs: nixOutputs })}\n` }),
};

/** @param {object} value @param {string} [indent] @returns {string} */
function yaml(value, indent = '') {
  return Object.entries(value)
    .map(([key, item]) =>
      typeof item === 'object'
        ? `${indent}${key}:\n${yaml(item, `${indent}  `)}`
        : `${indent}${key}: ${typeof item === 'string' && !/^[\w:/.+][\w:/.+ ?=^~-]*$/.test(item) ? JSON.stringify(item) : item}\n`,
    )
    .join('');
}

/** Stands for Nix code, which has no quotes around it. */
const nixOutputs = Symbol('outputs = _: { };');

/** @param {unknown} value @param {string} [indent] @returns {string} */
function nix(value, indent = '') {
  if (value === nixOutputs) return '_: { }';
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const lines = Object.entries(value).map(
    ([key, item]) => `${indent}  ${key} = ${nix(item, `${indent}  `)};\n`,
  );
  return `{\n${lines.join('')}${indent}}`;
}
