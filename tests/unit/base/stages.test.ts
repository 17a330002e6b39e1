import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { expect, test } from 'vitest';
import { startTime } from '../../../src/base/files.ts';
import { StageFolder } from '../../../src/base/stages.ts';
import { errorOf } from '../../support/errors.ts';
import { temporaryFolder } from '../../support/temp.ts';

test('a stage is a new path in a folder that is made', async () => {
  const stages = new StageFolder(join(temporaryFolder(), 'a/b'));
  const paths = await Promise.all([stages.next(), stages.next()]);
  expect(new Set(paths).size).toBe(2);
  expect(paths.map(existsSync)).toEqual([false, false]);
  for (const path of paths) writeFileSync(path, '');
  expect(readdirSync(stages.path).sort()).toEqual(paths.map((path) => basename(path)).sort());
});

test('what dead processes left goes at the next use, what the living have stays', async () => {
  const folder = temporaryFolder();
  const own = await new StageFolder(folder).next();
  writeFileSync(own, 'own');
  const other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
  await once(other, 'spawn');
  const theirs = `${other.pid}-${await startTime(other.pid!)}-ab.tree`;
  writeFileSync(join(folder, theirs), 'theirs');
  writeFileSync(join(folder, '4194304-12345-ab'), 'a process that is gone');
  mkdirSync(join(folder, `${process.pid}-1-ab/folder`), { recursive: true });
  writeFileSync(join(folder, 'no stage at all'), '');
  await new StageFolder(folder).next();
  expect(readdirSync(folder).sort()).toEqual([basename(own), theirs].sort());
  other.kill('SIGKILL');
  await once(other, 'exit');
  await new StageFolder(folder).open();
  expect(readdirSync(folder)).toEqual([basename(own)]);
});

test('a stage that cannot be removed bars nobody’s way', async () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, '4194304-12345-ab'), '');
  const refuse = () => Promise.reject(new Error('no'));
  expect(basename(await new StageFolder(folder, refuse).next())).toMatch(new RegExp(`^${process.pid}-`));
});

test('a folder that cannot be made is named', async () => {
  const file = join(temporaryFolder(), 'file');
  writeFileSync(file, '');
  expect(await errorOf(new StageFolder(join(file, 'stage')).next())).toMatchObject({
    code: 'FLK_FILE_UNWRITABLE',
  });
});
