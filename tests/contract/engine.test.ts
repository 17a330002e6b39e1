/** What every engine promises, over each that this machine has. */
import { silent } from '../../src/base/events.ts';
import { localEngine } from '../../src/build/engines/local.ts';
import { sandboxVariants } from '../support/builds.ts';
import { engineContract } from '../support/engine-contract.ts';

for (const { sandbox, usable } of sandboxVariants) {
  engineContract({
    title: `the local engine with ${sandbox}`,
    skipped: usable ? undefined : 'not usable on this machine',
    open: (store) => localEngine({ store, sandbox, reporter: silent }),
    streams: true,
  });
}
