import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { beforeEach, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { placeOf } from '../../../src/base/diagnostics.ts';
import type { FlkError } from '../../../src/base/errors.ts';
import { defaultSettings, readSettings } from '../../../src/cli/settings.ts';
import { renderError } from '../../../src/report/errors.ts';
import { noColours } from '../../../src/report/text.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

let home: string;
beforeEach(() => {
  home = temporaryFolder();
});

/** A person with these files in `~/.config`, on a machine whose /etc/nix is `etc`. */
function read(files: Readonly<Record<string, string>> = {}, env: NodeJS.ProcessEnv = {}) {
  for (const [name, text] of Object.entries(files)) {
    const path = join(home, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }
  return readSettings({
    HOME: home,
    NIX_CONF_DIR: join(home, 'etc'),
    XDG_CONFIG_DIRS: '/nonexistent',
    ...env,
  });
}

const own = '.config/flk/config.yaml';
const nixConf = '.config/nix/nix.conf';

describe('readSettings', () => {
  it('gives what Nix does where nothing is set', async () => {
    expect(await read()).toEqual(defaultSettings);
  });

  it('reads every setting of config.yaml', async () => {
    const settings = await read({
      [own]: `accessTokens: { github.com: ghp_a, gitlab.com/group: "PAT:b" }
netrcFile: ~/netrc
sslCertFile: /certs.pem
flakeRegistry: ""
tarballTtl: 7
allowDirty: false
warnDirty: false
allowDirtyLocks: true
commitLockFileSummary: "lock: move"
useRegistries: false
keepDerivations: false
keepOutputs: true
timeout: 60
maxSilentTime: 61
maxBuildLogSize: 1M
maxBuildSize: 2048
maxBuildMemory: "3G"
maxBuildProcesses: 0
keepFailed: true
builders:
  - nix=/usr/bin/nix?max-jobs=2
  - builder: remote=grpcs://build.example.org?instance=main
    systems: [x86_64-linux, aarch64-linux]
    features: kvm
    maxJobs: 32
    platform: { OSFamily: linux }
    caFile: ~/ca.pem
    tokenVariable: BUILD_TOKEN
    headers: { x-api-key: secret }
  - local
substituters: [https://a.example.org, "https://b.example.org?priority=1"]
trustedPublicKeys: a-1:AAAA
requireSigs: false
secretKeyFiles: [~/key, /etc/key]
pushTo: s3://cache
requirePush: true
narinfoCachePositiveTtl: 5
narinfoCacheNegativeTtl: 0
x-mine: [anything]
`,
    });
    expect(settings).toEqual({
      accessTokens: new Map([
        ['github.com', 'ghp_a'],
        ['gitlab.com/group', 'PAT:b'],
      ]),
      netrcFile: join(home, 'netrc'),
      sslCertFile: '/certs.pem',
      flakeRegistry: '',
      tarballTtl: 7,
      allowDirty: false,
      warnDirty: false,
      allowDirtyLocks: true,
      commitLockFileSummary: 'lock: move',
      useRegistries: false,
      keepDerivations: false,
      keepOutputs: true,
      timeout: 60,
      maxSilentTime: 61,
      maxBuildLogSize: 2 ** 20,
      maxBuildSize: 2048,
      maxBuildMemory: 3 * 2 ** 30,
      maxBuildProcesses: 0,
      keepFailed: true,
      builders: [
        { kind: 'nix', program: '/usr/bin/nix', maxJobs: 2 },
        {
          kind: 'remote',
          address: 'grpcs://build.example.org',
          instance: 'main',
          systems: ['x86_64-linux', 'aarch64-linux'],
          features: ['kvm'],
          maxJobs: 32,
          platform: { OSFamily: 'linux' },
          caFile: join(home, 'ca.pem'),
          tokenVariable: 'BUILD_TOKEN',
          headers: { 'x-api-key': 'secret' },
        },
        { kind: 'local' },
      ],
      substituters: ['https://a.example.org', 'https://b.example.org?priority=1'],
      trustedPublicKeys: ['a-1:AAAA'],
      requireSigs: false,
      secretKeyFiles: [join(home, 'key'), '/etc/key'],
      pushTo: ['s3://cache'],
      requirePush: true,
      narinfoCachePositiveTtl: 5,
      narinfoCacheNegativeTtl: 0,
    });
  });

  it('reads every setting of nix.conf, and past what is none of its business', async () => {
    const settings = await read({
      [nixConf]: `# a comment
access-tokens = github.com=ghp_a   gitlab.com=PAT:b=c # and more
netrc-file = /netrc
ssl-cert-file=/not-a-setting-without-blanks
substituters = https://a.example.org   https://b.example.org
extra-substituters = https://c.example.org https://a.example.org
trusted-public-keys = a-1:AAAA
extra-trusted-public-keys = b-1:BBBB
require-sigs = false
narinfo-cache-positive-ttl = 1K
narinfo-cache-negative-ttl = 0
flake-registry = /registry.json
tarball-ttl = 2K
allow-dirty = no
warn-dirty = 0
allow-dirty-locks = 1
commit-lockfile-summary = lock: move
use-registries = false
keep-derivations = false
gc-keep-outputs = true
timeout = 60
max-silent-time = 61
max-build-log-size = 1M
keep-failed = true
builders = ssh://builder x86_64-linux
trust-tarballs-from-git-forges = false
`,
    });
    expect(settings).toEqual({
      accessTokens: new Map([
        ['github.com', 'ghp_a'],
        ['gitlab.com', 'PAT:b=c'],
      ]),
      netrcFile: '/netrc',
      flakeRegistry: '/registry.json',
      tarballTtl: 2048,
      allowDirty: false,
      warnDirty: false,
      allowDirtyLocks: true,
      commitLockFileSummary: 'lock: move',
      useRegistries: false,
      keepDerivations: false,
      keepOutputs: true,
      timeout: 60,
      maxSilentTime: 61,
      maxBuildLogSize: 2 ** 20,
      maxBuildSize: defaultSettings.maxBuildSize,
      maxBuildMemory: 0,
      maxBuildProcesses: 4096,
      keepFailed: true,
      builders: [{ kind: 'local' }],
      substituters: ['https://a.example.org', 'https://b.example.org', 'https://c.example.org'],
      trustedPublicKeys: ['a-1:AAAA', 'b-1:BBBB'],
      requireSigs: false,
      secretKeyFiles: [],
      pushTo: [],
      requirePush: false,
      narinfoCachePositiveTtl: 1024,
      narinfoCacheNegativeTtl: 0,
    });
  });

  it('lets the person win over the machine, NIX_CONFIG over both, and flk’s own file over all', async () => {
    const files = {
      'etc/nix.conf': 'tarball-ttl = 1\nflake-registry = /machine\naccess-tokens = a.example=1 b.example=1\n',
      [nixConf]: 'tarball-ttl = 2\nextra-access-tokens = b.example=2 c.example=2\n',
    };
    expect(await read(files)).toMatchObject({ tarballTtl: 2, flakeRegistry: '/machine' });
    expect(await read(files, { NIX_CONFIG: 'tarball-ttl = 3' })).toMatchObject({ tarballTtl: 3 });
    const all = await read(
      { ...files, [own]: 'tarballTtl: 4\naccessTokens: { c.example: "4" }\n' },
      { NIX_CONFIG: 'tarball-ttl = 3' },
    );
    expect(all.tarballTtl).toBe(4);
    expect([...all.accessTokens]).toEqual([
      ['a.example', '1'],
      ['b.example', '2'],
      ['c.example', '4'],
    ]);
  });

  it('looks where the environment says', async () => {
    const files = { 'other/nix.conf': 'tarball-ttl = 5', 'config/flk/config.yaml': 'allowDirty: false' };
    const env = {
      NIX_USER_CONF_FILES: join(home, 'other/nix.conf'),
      XDG_CONFIG_HOME: join(home, 'config'),
      NIX_SSL_CERT_FILE: '/ca.pem',
    };
    expect(await read(files, env)).toMatchObject({
      tarballTtl: 5,
      allowDirty: false,
      sslCertFile: '/ca.pem',
    });
    const other = { NIX_CONFIG_HOME: join(home, 'other'), XDG_CONFIG_DIRS: join(home, 'shared') };
    const both = { ...files, 'shared/nix/nix.conf': 'tarball-ttl = 6\nwarn-dirty = false' };
    expect(await read(both, other)).toMatchObject({ tarballTtl: 5, warnDirty: false });
  });

  it('follows include from where it stands, and !include only where there is something', async () => {
    const settings = await read({
      [nixConf]: '!include missing.conf\ninclude sub/more.conf\n',
      '.config/nix/sub/more.conf': 'tarball-ttl = 9\n!include tokens\n',
      '.config/nix/sub/tokens': 'access-tokens = github.com=x\n',
    });
    expect(settings.tarballTtl).toBe(9);
    expect(settings.accessTokens.get('github.com')).toBe('x');
    const missing = await errorOf(read({ [nixConf]: 'include missing.conf\n' }));
    expect(missing.code).toBe('FLK_SETTINGS_INVALID');
    expect(missing.message).toContain(join(home, '.config/nix/missing.conf'));
    expect((await errorOf(read({ [nixConf]: 'include nix.conf\n' }))).code).toBe('FLK_SETTINGS_INVALID');
  });
});

describe('faults', () => {
  const printed = (error: FlkError): string => renderError(error, noColours);

  it('of config.yaml are all told, each with its place', async () => {
    const error = await errorOf(
      read({
        [own]: `tarballTTL: 5
allow-dirty: true
warnDirty: yes
useRegistries: "false"
netrcFile: relative
tarballTtl: 1.5
accessTokens: { "https://github.com": x, a.example: 5 }
`,
      }),
    );
    expect(error.code).toBe('FLK_SETTINGS_INVALID');
    expect(
      error.diagnostics.map((it) => [placeOf(it).split(':').slice(-2).join(':'), it.message, it.suggestion]),
    ).toEqual([
      ['1:1', 'there is no setting tarballTTL', 'did you mean tarballTtl?'],
      ['2:1', 'there is no setting allow-dirty', 'did you mean allowDirty?'],
      ['3:12', 'warnDirty is not true or false', undefined],
      ['4:16', 'useRegistries is not true or false', undefined],
      ['5:12', 'netrcFile is not an absolute path', undefined],
      ['6:13', 'tarballTtl is not a whole number of seconds', undefined],
      ['7:17', 'this is not a host, or a host and a path', 'write gitlab.com/group'],
      ['7:42', 'its token is not a text without blanks', 'quote it'],
    ]);
  });

  it.each([
    ['[a, b]', 'settings are NAME: VALUE'],
    ['accessTokens: ghp_secret', 'not a mapping'],
    ['tarballTtl: 1\ntarballTtl: 2', 'set twice'],
    ['a: [', ''],
  ])('%s is not what config.yaml may hold', async (text, message) => {
    const error = await errorOf(read({ [own]: text }));
    expect(error.code).toBe('FLK_SETTINGS_INVALID');
    expect(error.diagnostics[0]!.message).toContain(message);
  });

  it.each([
    ['tarball-ttl = soon', 'tarball-ttl is not a whole number of seconds'],
    ['allow-dirty = perhaps', 'allow-dirty is neither true nor false'],
    ['netrc-file = here', 'netrc-file is not an absolute path'],
  ])('of nix.conf: %s', async (line, message) => {
    const error = await errorOf(read({ [nixConf]: `access-tokens = github.com=ghp_secret\n${line}\n` }));
    expect(error.diagnostics.map((it) => [placeOf(it), it.message])).toEqual([
      [`${join(home, nixConf)}:2:${line.indexOf('=') + 3}`, message],
    ]);
    expect(printed(error)).toContain(line);
  });

  it.each([
    ['accessTokens:\n  github.com: ghp_secret\n  b: [ghp_secret]\n'],
    ['accessToken:\n  github.com: ghp_secret\n'],
    ['accessTokens:\ngithub.com: ghp_secret\n'],
    ['accessTokens: { github.com: ghp_secret'],
    ['{ tarballTtl: x, accessTokens: { github.com: ghp_secret } }'],
    ['accessTokens:\n  github.com: |\n   ghp_secret\n   ghp_secret\n'],
    ['accessTokens:\n  - github.com=ghp_secret\n'],
    ['accessTokens: { a: "ghp_secret", a: "ghp_secret" }'],
    ['accessTokens: { "ghp_secret": 5 }'],
    ['tarballTtl: soon # accessTokens: ghp_secret'],
    ['builders: [{ builder: remote=grpc://h:1, headers: { x-key: ghp_secret }, maxJobs: x }]'],
    ['builders:\n  - builder: remote=grpc://h:1\n    header:\n      x-key: ghp_secret\n'],
    ['builders: ["remote=grpc://ghp_secret:ghp_secret@h:1"]'],
  ])('never print a token: %j', async (text) => {
    const error = await errorOf(read({ [own]: text }));
    expect(error.diagnostics.length).toBeGreaterThan(0);
    expect(printed(error)).not.toContain('ghp_secret');
    expect(JSON.stringify(error.diagnostics)).not.toContain('ghp_secret');
  });
});

describe('config.schema.json', () => {
  const path = fileURLToPath(new URL('../../../schemas/config.schema.json', import.meta.url));
  const schema = JSON.parse(readFileSync(path, 'utf8')) as {
    properties: Record<string, { default?: unknown; description: string }>;
  };

  it('lists exactly the settings there are, with their defaults', () => {
    const { accessTokens, ...rest } = defaultSettings;
    const defaults = Object.fromEntries(
      Object.entries(schema.properties).map(([name, property]) => [name, property.default]),
    );
    expect(defaults).toEqual({
      ...rest,
      accessTokens: Object.fromEntries(accessTokens),
      builders: ['local'],
      netrcFile: undefined,
      sslCertFile: undefined,
    });
  });

  it('accepts what flk accepts, and refuses what it refuses', async () => {
    const ajv = new Ajv2020();
    const validate = ajv.compile(schema);
    const texts = [
      'tarballTtl: 5',
      'accessTokens: { github.com: x }',
      'x-mine: 1',
      'netrcFile: ~/netrc',
      'tarballTtl: -1',
      'tarballTTL: 1',
      'accessTokens: { github.com: 5 }',
      'accessTokens: { "https://github.com/": x }',
      'accessTokens: { github.com: "a b" }',
      'netrcFile: here',
      'allowDirty: "yes"',
      'maxBuildMemory: 4G',
      'maxBuildMemory: 5',
      'maxBuildMemory: 4 GB',
      'maxBuildMemory: true',
      'maxBuildProcesses: 4K',
      'substituters: [https://a.example.org]',
      'substituters: https://a.example.org',
      'substituters: [5]',
      'trustedPublicKeys: { a: b }',
      'builders: [local, nix, "nix=/usr/bin/nix?max-jobs=3", "remote=grpc://h:1?instance=a"]',
      'builders: [{ builder: nix, maxJobs: 4, x-note: mine }]',
      'builders: [{ builder: "remote=unix:/s", features: [kvm], certFile: ~/cert, keyFile: /key }]',
      'builders: local',
      'builders: [ssh]',
      'builders: [nix=here]',
      'builders: ["remote=http://h"]',
      'builders: ["remote=grpc://a:b@h:1"]',
      'builders: [{ maxJobs: 4 }]',
      'builders: [{ builder: nix, maxJobs: 0 }]',
      'builders: [{ builder: "remote=grpc://h:1", maxJob: 1 }]',
      'builders: [{ builder: "remote=grpc://h:1", caFile: here }]',
      'builders: [{ builder: "remote=grpc://h:1", headers: [a] }]',
    ];
    const verdicts = await Promise.all(
      texts.map((text) =>
        read(
          { [`${texts.indexOf(text)}/flk/config.yaml`]: text },
          { XDG_CONFIG_HOME: join(home, `${texts.indexOf(text)}`) },
        ).then(
          () => true,
          () => false,
        ),
      ),
    );
    expect(verdicts).toEqual(texts.map((text) => validate(parse(text))));
    expect(verdicts.filter(Boolean)).toHaveLength(11);
  });
});
