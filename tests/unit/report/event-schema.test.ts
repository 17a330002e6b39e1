import { readFileSync } from 'node:fs';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import type { Activity, Event, Notice } from '../../../src/base/events.ts';
import { JsonReport } from '../../../src/report/json.ts';
import { noticeWords } from '../../../src/report/phrases.ts';

const schema = JSON.parse(
  readFileSync(new URL('../../../schemas/event.schema.json', import.meta.url), 'utf8'),
) as object;
const validate = new Ajv2020({ strictTypes: false, strictRequired: false }).compile(schema);

/** One of each: a new variant does not compile until it stands here. */
const activities: { readonly [T in Activity['type']]: Extract<Activity, { type: T }> } = {
  lock: { type: 'lock', flake: '.' },
  resolve: { type: 'resolve', subject: 'git+http://x/y' },
  fetch: { type: 'fetch', subject: 'git+http://x/y' },
  hash: { type: 'hash', subject: '/x' },
  add: { type: 'add', subject: '/nix/store/x' },
  push: { type: 'push', subject: 'hello-2.12' },
  unpack: { type: 'unpack', subject: 'x.tar.gz' },
  build: { type: 'build', name: 'hello', drvPath: '/nix/store/x.drv', builder: 'nix' },
  'find-roots': { type: 'find-roots', store: '/home/ada/.local/share/flk' },
  sweep: { type: 'sweep', paths: 3 },
};
const notices: { readonly [T in Notice['type']]: Extract<Notice, { type: T }> } = {
  'dirty-tree': { type: 'dirty-tree', path: '.' },
  untracked: { type: 'untracked', path: 'flake.yaml' },
  'host-toolchain': { type: 'host-toolchain', packages: ['hello'] },
  'no-sandbox': { type: 'no-sandbox', reason: '--no-sandbox' },
  'unused-override': { type: 'unused-override', input: 'greet' },
  'unused-update': { type: 'unused-update', input: 'greet' },
  'outdated-relative': { type: 'outdated-relative', input: 'greet' },
  retry: { type: 'retry', subject: 'http://x', attempt: 2, delayMs: 500, reason: 'HTTP 503' },
  'netrc-readable': { type: 'netrc-readable', path: '/home/ada/.netrc' },
  'repository-moved': { type: 'repository-moved', from: 'github:a/b', to: 'github:a/c' },
  'not-locked': { type: 'not-locked', flake: 'path:/x' },
  'old-answer': { type: 'old-answer', subject: 'https://h/x.json', reason: 'cannot reach h' },
  'unread-lock': { type: 'unread-lock', path: '/home/ada/work/flake.lock' },
  'cache-unreachable': { type: 'cache-unreachable', cache: 'https://h', reason: 'cannot reach h' },
  'cache-untrusted': { type: 'cache-untrusted', cache: 'https://h', path: '/nix/store/x', signed: true },
  'builder-unavailable': { type: 'builder-unavailable', builder: 'nix', reason: 'not found' },
  'push-failed': {
    type: 'push-failed',
    cache: 's3://b',
    paths: ['/nix/store/x'],
    reason: 'cannot reach h',
    command: 'flk cache push s3://b /nix/store/x',
  },
  'push-skipped': { type: 'push-skipped', paths: ['/nix/store/x'] },
  'key-readable': { type: 'key-readable', path: '/home/ada/key' },
  'ci-locked': { type: 'ci-locked' },
  'lock-written': { type: 'lock-written', path: 'flake.lock' },
};
const events: readonly Event[] = [
  ...Object.values(activities).map((activity): Event => ({ kind: 'start', id: 1, activity })),
  { kind: 'start', id: 2, parent: 1, activity: activities.fetch },
  { kind: 'progress', id: 1, done: 5, unit: 'bytes' },
  { kind: 'progress', id: 1, done: 5, total: 9, unit: 'objects' },
  { kind: 'end', id: 1, outcome: 'cached' },
  { kind: 'log', id: 1, line: 'x' },
  ...Object.values(notices).map((notice): Event => ({ kind: 'notice', notice })),
  { kind: 'request', method: 'GET', address: '/nix-cache-info', status: 200, bytes: 49, ms: 1 },
  { kind: 'request', method: 'GET', address: '/x', status: 500, bytes: 0, ms: 1, broken: true, fault: 'x' },
];

describe('schemas/event.schema.json', () => {
  it('describes every event that --log-format json prints', () => {
    let lines = '';
    const report = new JsonReport({
      write: (text) => {
        lines += text;
      },
    });
    for (const event of events) report.emit(event);
    report.say('words');
    for (const line of lines.trimEnd().split('\n'))
      expect(validate(JSON.parse(line)), `${line} ${JSON.stringify(validate.errors)}`).toBe(true);
  });

  it('refuses what is none', () => {
    expect(validate({ kind: 'start', id: 1, activity: { type: 'dance', subject: 'x' } })).toBe(false);
    expect(validate({ kind: 'end', id: 1, outcome: 'ok', extra: 1 })).toBe(false);
  });
});

it.each(Object.values(notices))('says $type in words', (notice) => {
  expect(noticeWords(notice).text.length).toBeGreaterThan(10);
});
