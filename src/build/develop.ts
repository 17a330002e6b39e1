/**
 * The environment in which a package is built, or that a shell declares, for a person to work in: what the phases runner
 * `setup/1.sh` would find and set. docs/shells.md says what is different from a build.
 */
import { existsSync, lstatSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { FlkError } from '../base/errors.ts';
import { quote } from '../base/process.ts';
import {
  type BuiltPackage,
  type DevShell,
  type PackageDeclaration,
  type PackageRef,
  packagesFor,
} from '../flake/manifest.ts';
import { phaseNames } from '../flake/manifest-model.ts';
import { printPackageRef } from '../flake/package-ref.ts';
import { type StorePath, storeDir } from '../formats/store-path.ts';
import type { Store } from '../store/store.ts';
import { onDisk } from './enter.ts';
import type { PlannedDerivation } from './instantiation.ts';
import { type LockedFlake, LockedFlakes, type LockedFlakesContext } from './locked-flakes.ts';

export interface DevelopEnvironment {
  readonly kind: 'package' | 'shell';
  /** Of the derivation: `hello-2.12`. */
  readonly name: string;
  /** Folders for the front of PATH. */
  readonly path: readonly string[];
  /** What is set besides PATH; the outputs' own variables are not among them. */
  readonly variables: ReadonlyMap<string, string>;
  /** Names of the outputs; none for a shell. */
  readonly outputs: readonly string[];
  /** Nothing of the host is on PATH while it is built: its tools are a path of the store. */
  readonly hasToolchain: boolean;
  readonly shellHook: string | undefined;
}

/**
 * A shell as a package that has its inputs, those of `inputsFrom` too, and whose build leaves the list of them. Throws
 * FLK_PACKAGE_UNKNOWN, and FLK_PACKAGE_INVALID where `inputsFrom` names what is not built.
 */
export async function shellPackage(
  context: LockedFlakesContext,
  system: string,
  shell: DevShell,
): Promise<BuiltPackage> {
  const flakes = new LockedFlakes(context);
  const inputs = [...shell.packages, ...shell.buildInputs];
  for (const ref of shell.inputsFrom) inputs.push(...(await inputsOf(flakes, flakes.root, ref, system)));
  const hook = shell.shellHook;
  return {
    kind: 'build',
    name: shell.name,
    meta: shell.description === '' ? {} : { description: shell.description },
    buildInputs: distinct(inputs),
    env: new Map([...shell.env, ...(hook === undefined ? [] : ([['shellHook', hook]] as const))]),
    ...(shell.toolchain && { toolchain: shell.toolchain }),
    patches: [],
    phases: new Map([['installPhase', [`printf '%s\\n' $buildInputs > $out`]]]),
    outputs: ['out'],
    contentAddressed: false,
    requiredFeatures: [],
    range: shell.range,
  };
}

const distinct = (refs: readonly PackageRef[]): PackageRef[] => [
  ...new Map(refs.map((ref) => [printPackageRef(ref), ref])).values(),
];

/** What a package is built with, named from the root flake. */
async function inputsOf(
  flakes: LockedFlakes,
  from: LockedFlake,
  ref: PackageRef,
  system: string,
  steps = 0,
): Promise<PackageRef[]> {
  const flake = flakes.input(from, ref.inputs);
  const name = ref.name ?? 'default';
  const declaration: PackageDeclaration | undefined = packagesFor(await flake.manifest(), system).get(name);
  const shown = printPackageRef({ inputs: flake.path, name });
  if (declaration === undefined)
    throw new FlkError('FLK_PACKAGE_UNKNOWN', `inputsFrom: there is no package ${shown} for ${system}`);
  const fromRoot = (inner: PackageRef): PackageRef => ({
    ...inner,
    inputs: [...flake.path, ...inner.inputs],
  });
  switch (declaration.kind) {
    case 'build':
      return declaration.buildInputs.map(fromRoot);
    case 'alias':
      if (steps > 100) throw new FlkError('FLK_PACKAGE_CYCLE', `inputsFrom: ${shown} is an alias of itself`);
      return await inputsOf(flakes, flakes.root, fromRoot(declaration.target), system, steps + 1);
    case 'fetch':
    case 'merge':
    case 'storePath':
      throw new FlkError('FLK_PACKAGE_INVALID', `inputsFrom: ${shown} is not built, so it has no inputs`, {
        hint: 'put it under packages',
      });
  }
}

/** Attributes that only steer the build. */
const buildOnly = new Set([
  'name',
  'system',
  'builder',
  'toolchain',
  'out',
  'outputs',
  'installPhase',
  'shellHook',
]);

/**
 * The environment of a derivation all of whose inputs are valid. Search paths are those that the phases runner computes: earlier
 * inputs first, what the package itself sets before them.
 */
export function developEnvironment(
  store: Store,
  { derivation, name, toolchain }: PlannedDerivation,
  kind: DevelopEnvironment['kind'],
  cores: number,
): DevelopEnvironment {
  const { env } = derivation;
  const inputs = (env.get('buildInputs') ?? '').split(' ').filter((word) => word !== '');
  const there = (path: string): boolean => existsSync(onDisk(store, path));
  const below = (...folders: string[]): string[] =>
    inputs.flatMap((input) => folders.map((folder) => `${input}/${folder}`)).filter(there);
  const libraries = inputs.flatMap((input) =>
    (isLink(onDisk(store, `${input}/lib64`)) ? ['lib'] : ['lib', 'lib64'])
      .map((folder) => `${input}/${folder}`)
      .filter(there),
  );
  const pkgConfig = inputs.flatMap((input) => [
    ...libraries.filter((folder) => folder.startsWith(`${input}/`)).map((folder) => `${folder}/pkgconfig`),
    `${input}/share/pkgconfig`,
  ]);
  const search: readonly (readonly [string, readonly string[]])[] = [
    ['CPATH', below('include')],
    ['LIBRARY_PATH', libraries],
    ['LD_RUN_PATH', libraries],
    ['PKG_CONFIG_PATH', pkgConfig.filter(there)],
    ['CMAKE_PREFIX_PATH', inputs],
    ['ACLOCAL_PATH', below('share/aclocal')],
  ];
  const tools =
    toolchain.kind === 'path'
      ? ['bin', 'usr/bin', 'sbin', 'usr/sbin'].map((folder) => `${toolchain.path}/${folder}`).filter(there)
      : [];
  const outputs = [...derivation.outputs.keys()];
  const variables = new Map<string, string>();
  for (const [variable, value] of env) {
    const isOwn = kind === 'package' ? !outputs.includes(variable) : !buildOnly.has(variable);
    if (isOwn && variable !== 'shellHook') variables.set(variable, value);
  }
  for (const [variable, folders] of search) {
    const own = variables.get(variable) ?? '';
    const value = [...(own === '' ? [] : [own]), ...folders].join(delimiter);
    if (value !== '') variables.set(variable, value);
  }
  if (kind === 'package') {
    if (!variables.has('SOURCE_DATE_EPOCH')) variables.set('SOURCE_DATE_EPOCH', '315532800');
    variables.set('NIX_BUILD_CORES', String(cores));
    variables.set('NIX_STORE', storeDir);
    if (!variables.has('outputs')) variables.set('outputs', outputs.join(' '));
  }
  variables.set('IN_NIX_SHELL', 'impure');
  return {
    kind,
    name,
    path: [...below('bin'), ...tools],
    variables,
    outputs: kind === 'package' ? outputs : [],
    hasToolchain: toolchain.kind === 'path',
    shellHook: env.get('shellHook'),
  };
}

function isLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true;
}

/** With what depends on the folder that a person works in: there outputs go, and sources are unpacked. */
export function variablesIn(
  { variables, outputs, kind }: DevelopEnvironment,
  cwd: string,
): Map<string, string> {
  const all = new Map(variables);
  for (const output of outputs) all.set(output, join(cwd, 'outputs', output));
  if (kind === 'package') all.set('NIX_BUILD_TOP', cwd);
  return all;
}

/** Text that exports variables to a POSIX shell. `path` goes before what PATH holds there. */
export function exportScript(path: readonly string[], variables: ReadonlyMap<string, string>): string {
  const front = quote(path.join(delimiter));
  const lines = [...variables].map(([name, value]) => `export ${name}=${quote(value)}\n`);
  if (path.length > 0) {
    lines.push(
      `case \${PATH-} in ${front}|${front}:*) ;; *) export PATH=${front}"\${PATH:+:$PATH}" ;; esac\n`,
    );
  }
  return lines.join('');
}

/** `/nix/store/…` in a text, as it lies on disk, for every path that is valid. */
export function physicalText(store: Store, text: string): string {
  return text.replace(/\/nix\/store\/[0-9a-df-np-sv-z]{32}-[0-9A-Za-z+._?=-]+/g, (word) =>
    store.query(word as StorePath) === undefined ? word : onDisk(store, word),
  );
}

/**
 * The phases as functions of a POSIX shell, also zsh: each does what the runner does at its place, in this shell, so that the next
 * one finds where it has gone and what it has set. Unlike there, a failing line ends nothing; `buildAll` runs them all, in a shell
 * of its own, up to the first failure.
 */
export const phaseFunctions: Readonly<Record<string, string>> = {
  unpackPhase: `
  [ -z "\${ZSH_VERSION-}" ] || emulate -L sh
  if [ -n "\${unpackPhase-}" ]; then
    eval "$unpackPhase" || return
  elif [ -n "\${src-}" ]; then
    if [ -e source ] || [ -L source ]; then
      echo 'there is a ./source already: remove it, or enter it and go on' >&2
      return 1
    fi
    if [ -d "$src" ]; then
      cp -RPp "$src/." source && chmod -R u+w source && cd source || return
    else
      flk_name=\${src##*/}
      if [ "$src" = "$NIX_STORE/$flk_name" ]; then flk_name=\${flk_name#????????????????????????????????-}; fi
      mkdir source && cd source && cp -p "$src" "./$flk_name" && chmod u+w "./$flk_name" || return
      unset flk_name
    fi
  fi
  for flk_patch in \${patches-}; do patch -p1 -i "$flk_patch" || return; done
  unset flk_patch
`,
  ...Object.fromEntries(
    phaseNames.slice(1).map((phase) => [
      phase,
      `
  mkdir -p "\${out%/*}" || return
  eval "\${${phase}-}"
`,
    ]),
  ),
  buildAll: `
  ( set -e
${phaseNames.map((phase) => `    ${phase}\n`).join('')}  )
`,
};

/** The functions as text for a shell. */
export const functionScript = (): string =>
  Object.entries(phaseFunctions)
    .map(([name, body]) => `${name}() {${body}}\n`)
    .join('');
