/**
 * Does random actions to a store until it is told to stop, or killed; run as a process of its own by driver.ts. After each it tells
 * its parent what it did, and looks whether all that it keeps is still there. Arguments: its surroundings as JSON, a name, a seed.
 */
import { asFlkError } from '../../src/base/errors.ts';
import { openStore } from '../../src/store/store.ts';
import { placesIn, type Surroundings, type Worker } from './action.ts';
import { storeActions } from './actions.ts';
import { cacheActions } from './cache-actions.ts';
import { chance } from './chance.ts';
import type { Told } from './driver.ts';
import { packageActions } from './packages.ts';

const [text = '', id = '', seed = '0'] = process.argv.slice(2);
const surroundings: Surroundings = JSON.parse(text);
const { root } = placesIn(surroundings.folder);
const random = chance(Number(seed));
const tell = (told: Told): void => void process.send?.(told);
let stopped = false;
process.on('message', () => {
  stopped = true;
});

const worker: Worker = { store: await openStore(root), root, id, random, kept: new Set(), surroundings };
const actions = [...storeActions, ...cacheActions, ...packageActions];
const weighted = actions.flatMap((action) => Array.from({ length: action.weight }, () => action));
while (!stopped) {
  const action = weighted[Math.floor(random() * weighted.length)]!;
  try {
    await action.run(worker);
    worker.store.closure(worker.kept);
    tell({ did: action.name });
  } catch (error) {
    const { code, message, trail, facts, stack } = asFlkError(error);
    tell({
      fault: `${action.name}: ${code} ${message} ${trail.join(' ')} ${JSON.stringify(facts)}\n${stack}`,
    });
    break;
  }
}
worker.store.close();
process.disconnect();
