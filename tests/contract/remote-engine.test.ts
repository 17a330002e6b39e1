/** What every engine promises, over a real server of the Remote Execution API. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import type { Event } from '../../src/base/events.ts';
import { openStore } from '../../src/store/store.ts';
import { buildRequest } from '../support/builds.ts';
import { engineContract } from '../support/engine-contract.ts';
import { type BuildBox, buildBox, freePort, noBuildBox, testEngine } from '../support/reapi.ts';
import { temporaryFolder } from '../support/temp.ts';
import { programFiles, treeOfFiles } from '../support/toolchain.ts';
import { treeFrom } from '../support/trees.ts';

const patience = { tries: 2, first: 50, longest: 50 };
const nobody = `grpc://127.0.0.1:${await freePort()}`;

let server: BuildBox | undefined;
afterAll(() => server?.kill());

engineContract({
  title: 'the remote engine with BuildBox',
  skipped: noBuildBox,
  open: async (store) => {
    server = await buildBox();
    return testEngine({ store, address: server.address });
  },
  unreachable: (store) => testEngine({ store, address: nobody, patience }),
  // BuildBox tells what an action printed when it has ended.
  streams: false,
  lacks: { linkOutputs: true, specialFiles: true },
  shortTime: 2,
});

describe.skipIf(noBuildBox)(`BuildBox, killed${noBuildBox ? ` (skipped: ${noBuildBox})` : ''}`, () => {
  it('while it builds, and started again: the build comes to its end', async () => {
    const box = await buildBox();
    const store = await openStore(temporaryFolder());
    const files = treeOfFiles(programFiles(['sh', 'sleep']));
    const { path } = await store.addTree('toolchain', treeFrom(files));
    const notices: Event[] = [];
    let restarted: Promise<void> | undefined;
    const reporter = { emit: (event: Event) => void notices.push(event) };
    const engine = testEngine({ store, address: box.address, reporter });
    try {
      const request = buildRequest('/bin/sleep 2; echo done > $out', [], {
        toolchain: { kind: 'path', path },
        closure: [path],
      });
      const building = engine.build(request);
      await sleep(1000);
      await box.kill();
      restarted = box.start();
      const { outputs, dispose } = await building;
      expect(readFileSync(outputs.get('out')!, 'utf8')).toBe('done\n');
      await dispose();
      expect(notices.map((event) => event.kind === 'notice' && event.notice.type)).toContain('retry');
    } finally {
      await restarted;
      await engine.close();
      await box.kill();
      store.close();
    }
  });
});
