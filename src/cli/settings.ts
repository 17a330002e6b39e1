/**
 * What a person has set once for all flakes: flk's own `config.yaml`, and what an installed Nix has been told, so that who moves
 * from one to the other sets nothing twice. flk's own file wins; options of the command line win over both.
 */
import { isAbsolute, join } from 'node:path';
import { Findings, nearest, type SourceFile } from '../base/diagnostics.ts';
import { FlkError } from '../base/errors.ts';
import { homeFolder, readFileIfExists } from '../base/files.ts';
import { type BuilderSpec, buildersOf } from './builder-specs.ts';
import { type NixConfLine, readNixConf } from './nix-conf.ts';

/** Names and defaults are Nix's, in camelCase: see nix.conf(5). */
export interface Settings {
  /** By host, or host and path (`gitlab.com/group`): what is sent there to be let in. */
  readonly accessTokens: ReadonlyMap<string, string>;
  /** Absolute. Where it is not set: /etc/nix/netrc and ~/.netrc. */
  readonly netrcFile?: string;
  /** Certificates (PEM) to trust instead of Node's own. */
  readonly sslCertFile?: string;
  /** The global registry: a URL or an absolute path; empty for none. */
  readonly flakeRegistry: string;
  /** Seconds for which a server's answer about a ref, an archive or a registry is young. */
  readonly tarballTtl: number;
  readonly allowDirty: boolean;
  readonly warnDirty: boolean;
  readonly allowDirtyLocks: boolean;
  /** The message of `--commit-lock-file`; empty for the usual one. */
  readonly commitLockFileSummary: string;
  readonly useRegistries: boolean;
  /** Addresses of binary caches that are asked before anything is built. */
  readonly substituters: readonly string[];
  /** `NAME:base64`: whose signatures count. */
  readonly trustedPublicKeys: readonly string[];
  /** Whether what a cache offers has to be signed, unless it is named after its content. */
  readonly requireSigs: boolean;
  /** Absolute: the keys in these files sign what is built here. */
  readonly secretKeyFiles: readonly string[];
  /** Addresses of binary caches that get what is built, with all that it refers to. */
  readonly pushTo: readonly string[];
  /** Whether a build has failed whose result is not in all of those caches. */
  readonly requirePush: boolean;
  /** Seconds for which a cache's answer counts that it has a path; and that it has not. */
  readonly narinfoCachePositiveTtl: number;
  readonly narinfoCacheNegativeTtl: number;
  /** Whether flk gc leaves the derivations of what is in use. */
  readonly keepDerivations: boolean;
  /** Whether it leaves the outputs of derivations that stay. */
  readonly keepOutputs: boolean;
  /** Seconds that a build may run, and print nothing; 0, as for all that follows: as long, or as much, as it likes. */
  readonly timeout: number;
  readonly maxSilentTime: number;
  /** Bytes that a builder may print. */
  readonly maxBuildLogSize: number;
  /** Bytes that a build may have on disk at a time. */
  readonly maxBuildSize: number;
  /** Bytes of memory for all processes of a build together. */
  readonly maxBuildMemory: number;
  /** Processes and threads of a build at a time. */
  readonly maxBuildProcesses: number;
  /** Whether build folders of failed builds are kept. */
  readonly keepFailed: boolean;
  /** Who builds, in order of preference. */
  readonly builders: readonly BuilderSpec[];
}

type Name = keyof Settings;
type Values = { -readonly [K in keyof Settings]: Settings[K] };

export const defaultSettings: Settings = {
  accessTokens: new Map(),
  flakeRegistry: 'https://channels.nixos.org/flake-registry.json',
  tarballTtl: 3600,
  allowDirty: true,
  warnDirty: true,
  allowDirtyLocks: false,
  commitLockFileSummary: '',
  useRegistries: true,
  substituters: [],
  trustedPublicKeys: ['cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY='],
  requireSigs: true,
  secretKeyFiles: [],
  pushTo: [],
  requirePush: false,
  narinfoCachePositiveTtl: 30 * 86_400,
  narinfoCacheNegativeTtl: 3600,
  keepDerivations: true,
  keepOutputs: false,
  timeout: 0,
  maxSilentTime: 0,
  maxBuildLogSize: 256 * 2 ** 20,
  maxBuildSize: 64 * 2 ** 30,
  maxBuildMemory: 0,
  maxBuildProcesses: 4096,
  keepFailed: false,
  builders: [{ kind: 'local' }],
};

/** By Nix's names, the older ones too. What is not here is none of flk's business. */
const nixNames: Readonly<Record<string, Name>> = {
  'access-tokens': 'accessTokens',
  'netrc-file': 'netrcFile',
  'ssl-cert-file': 'sslCertFile',
  'flake-registry': 'flakeRegistry',
  'tarball-ttl': 'tarballTtl',
  'allow-dirty': 'allowDirty',
  'warn-dirty': 'warnDirty',
  'allow-dirty-locks': 'allowDirtyLocks',
  'commit-lock-file-summary': 'commitLockFileSummary',
  'commit-lockfile-summary': 'commitLockFileSummary',
  'use-registries': 'useRegistries',
  substituters: 'substituters',
  'binary-caches': 'substituters',
  'trusted-public-keys': 'trustedPublicKeys',
  'binary-cache-public-keys': 'trustedPublicKeys',
  'require-sigs': 'requireSigs',
  'narinfo-cache-positive-ttl': 'narinfoCachePositiveTtl',
  'narinfo-cache-negative-ttl': 'narinfoCacheNegativeTtl',
  'keep-derivations': 'keepDerivations',
  'gc-keep-derivations': 'keepDerivations',
  'keep-outputs': 'keepOutputs',
  'gc-keep-outputs': 'keepOutputs',
  timeout: 'timeout',
  'build-timeout': 'timeout',
  'max-silent-time': 'maxSilentTime',
  'build-max-silent-time': 'maxSilentTime',
  'max-build-log-size': 'maxBuildLogSize',
  'build-max-log-size': 'maxBuildLogSize',
  'keep-failed': 'keepFailed',
};
/** Numbers that may be written as 4G. */
const sizes: ReadonlySet<Name> = new Set<Name>(['maxBuildLogSize', 'maxBuildSize', 'maxBuildMemory']);
/** Settings that are lists: `extra-NAME` of nix.conf adds to them. */
const lists: ReadonlySet<Name> = new Set<Name>([
  'accessTokens',
  'substituters',
  'trustedPublicKeys',
  'secretKeyFiles',
  'pushTo',
]);
const names = new Set<string>([...Object.keys(defaultSettings), ...Object.values(nixNames)]);
const isName = (name: string): name is Name => names.has(name);

/**
 * Throws FLK_SETTINGS_INVALID, with the place of each fault and never with a token; FLK_FILE_UNREADABLE and FLK_LIMIT. A setting
 * that Nix knows and flk does not is read past; one in flk's own file is a fault.
 */
export async function readSettings(env: NodeJS.ProcessEnv): Promise<Settings> {
  const home = homeFolder(env);
  const config = env.XDG_CONFIG_HOME;
  const folder = config !== undefined && isAbsolute(config) ? config : join(home, '.config');
  const path = join(folder, 'flk/config.yaml');
  const [lines, bytes] = await Promise.all([readNixConf(env, home), readFileIfExists(path, 2 ** 20)]);
  const values: Values = { ...defaultSettings };
  const certificates = env.NIX_SSL_CERT_FILE || env.SSL_CERT_FILE;
  if (certificates !== undefined && certificates !== '') values.sslCertFile = certificates;
  for (const line of lines) applyLine(values, line, home);
  if (bytes) await applyConfig(values, { path, text: bytes.toString() }, home);
  return values;
}

function applyLine(values: Values, { name, value, file, range }: NixConfLine, home: string): void {
  const bare = name.replace(/^extra-/, '');
  const known = Object.hasOwn(nixNames, bare) ? nixNames[bare] : undefined;
  if (known === undefined || (bare !== name && !lists.has(known))) return;
  const findings = new Findings({ path: file.path, text: withoutSecrets(file.text) });
  const fault = put(values, known, value, { home, more: bare !== name });
  if (fault === undefined) return;
  findings.add(range, `${name} ${fault}`);
  throw invalid(findings);
}

/** Sets one value out of a text. Gives what is wrong with it, in words that do not repeat it. */
function put(
  values: Values,
  name: Name,
  text: string,
  { home, more = false }: { readonly home: string; readonly more?: boolean },
): string | undefined {
  switch (name) {
    case 'accessTokens': {
      const pairs = text.split(' ').flatMap((word): [string, string][] => {
        const equals = word.indexOf('=');
        return equals < 1 ? [] : [[word.slice(0, equals), word.slice(equals + 1)]];
      });
      values[name] = new Map([...(more ? values[name] : []), ...pairs]);
      return undefined;
    }
    case 'substituters':
    case 'pushTo':
    case 'trustedPublicKeys': {
      const words = text.split(/\s+/).filter((word) => word !== '');
      values[name] = [...new Set([...(more ? values[name] : []), ...words])];
      return undefined;
    }
    case 'secretKeyFiles': {
      const paths = text.split(/\s+/).filter((word) => word !== '');
      const absolute = paths.map((path) => (path.startsWith('~/') ? join(home, path.slice(2)) : path));
      if (!absolute.every((path) => isAbsolute(path))) return 'has a path that is not absolute';
      values[name] = absolute;
      return undefined;
    }
    case 'netrcFile':
    case 'sslCertFile': {
      const path = text.startsWith('~/') ? join(home, text.slice(2)) : text;
      if (path === '') delete values[name];
      else if (!isAbsolute(path)) return 'is not an absolute path';
      else values[name] = path;
      return undefined;
    }
    case 'flakeRegistry':
    case 'commitLockFileSummary':
      values[name] = text;
      return undefined;
    case 'tarballTtl':
    case 'narinfoCachePositiveTtl':
    case 'narinfoCacheNegativeTtl':
    case 'timeout':
    case 'maxSilentTime':
    case 'maxBuildLogSize':
    case 'maxBuildSize':
    case 'maxBuildMemory':
    case 'maxBuildProcesses': {
      const number = /^(\d{1,12})([KMGT]?)$/.exec(text);
      if (!number) return `is not ${kindOf(name)}`;
      values[name] = Number(number[1]) * 1024 ** ' KMGT'.indexOf(number[2] || ' ');
      return undefined;
    }
    case 'allowDirty':
    case 'warnDirty':
    case 'allowDirtyLocks':
    case 'useRegistries':
    case 'requireSigs':
    case 'requirePush':
    case 'keepDerivations':
    case 'keepOutputs':
    case 'keepFailed':
      if (!/^(true|yes|1|false|no|0)$/.test(text)) return 'is neither true nor false';
      values[name] = /^(true|yes|1)$/.test(text);
      return undefined;
    // Nix's setting of this name speaks of other things.
    case 'builders':
      return 'is not a text';
  }
}

/** What a value of the setting is, in words. */
function kindOf(name: Name): string {
  if (sizes.has(name)) return 'a size: bytes, or 4G';
  switch (typeof defaultSettings[name]) {
    case 'boolean':
      return 'true or false';
    case 'number':
      return name === 'maxBuildProcesses' ? 'a whole number' : 'a whole number of seconds';
    default:
      return 'a text';
  }
}

async function applyConfig(values: Values, file: SourceFile, home: string): Promise<void> {
  const { entriesOf, parseYaml } = await import('../flake/manifest-yaml.ts');
  const findings = new Findings({ path: file.path, text: withoutSecrets(file.text) });
  const root = parseYaml(file.text, findings);
  if (root && root.kind !== 'map') findings.add(root.range, 'settings are NAME: VALUE, one on each line');
  for (const [name, { key, value }] of entriesOf(root)) {
    if (name.startsWith('x-')) continue;
    if (!isName(name)) {
      const near = nearest(name, names) ?? nixNames[name];
      findings.add(
        key,
        `there is no setting ${name}`,
        near === undefined ? undefined : `did you mean ${near}?`,
      );
    } else if (name === 'accessTokens') {
      const tokens = new Map(values.accessTokens);
      if (value.kind !== 'map') findings.add(key, `${name} is not a mapping of hosts to tokens`);
      for (const [host, token] of entriesOf(value)) {
        const word = token.value.kind === 'scalar' ? token.value.value : undefined;
        if (typeof word !== 'string' || !/^[\u0021-\u007e]{1,4096}$/.test(word))
          findings.add(token.key, 'its token is not a text without blanks', 'quote it');
        else if (!/^[A-Za-z0-9.-]+(:\d+)?(\/[^\s?#/][^\s?#]*)?$/.test(host))
          findings.add(token.key, 'this is not a host, or a host and a path', 'write gitlab.com/group');
        else tokens.set(host, word);
      }
      values.accessTokens = tokens;
    } else if (name === 'builders') {
      values.builders = buildersOf(value, home, findings);
    } else if (lists.has(name)) {
      const items = value.kind === 'list' ? value.items : [value];
      const texts = items.map((item) => (item.kind === 'scalar' ? item.value : undefined));
      const fault = texts.every((item) => typeof item === 'string')
        ? put(values, name, texts.join(' '), { home })
        : 'is not a list of texts';
      if (fault !== undefined) findings.add(value.range, `${name} ${fault}`);
    } else {
      const scalar = value.kind === 'scalar' ? value.value : null;
      const wanted = typeof defaultSettings[name];
      const type = wanted === 'undefined' ? 'string' : wanted;
      const fits = typeof scalar === type || (sizes.has(name) && typeof scalar === 'string');
      const fault = fits ? put(values, name, String(scalar), { home }) : `is not ${kindOf(name)}`;
      if (fault !== undefined) findings.add(value.range, `${name} ${fault}`);
    }
  }
  if (findings.count > 0) throw invalid(findings);
}

function invalid(findings: Findings): FlkError {
  const diagnostics = findings.list();
  const count = diagnostics.length === 1 ? '1 fault' : `${diagnostics.length} faults`;
  return new FlkError('FLK_SETTINGS_INVALID', `${count} in ${findings.file.path}`, { diagnostics });
}

/**
 * The text as a report may show it, as long as it was: values stand there only beside names of settings that hold no secret, for
 * a token may be anywhere in a file with faults. Works on lines, for the text may not be YAML.
 */
function withoutSecrets(text: string): string {
  return text
    .split('\n')
    .map((line) => {
      const start = /^(\s*["']?([\w./-]*)["']?\s*)(?=[:=])/.exec(line);
      const name = start?.[2]?.replace(/^extra-/, '') ?? '';
      const harmless = (isName(name) && name !== 'builders') || Object.hasOwn(nixNames, name);
      if (harmless && !/token/i.test(line)) return line;
      const shown = start?.[1] ?? '';
      return shown + line.slice(shown.length).replace(/[^\s:=]/g, '*');
    })
    .join('\n');
}
