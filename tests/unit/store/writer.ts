/** Adds and registers paths for ever; run as a process of its own by crash.test.ts. Arguments: the store's root, a number. */
import { hashTree } from '../../../src/formats/nar.ts';
import { makeTextPath } from '../../../src/formats/store-path.ts';
import { openStore } from '../../../src/store/store.ts';
import { restoreTree } from '../../../src/store/tree-files.ts';
import { directory, file, treeFrom } from '../../support/trees.ts';

const [root = '', who = '', rounds = '1000000'] = process.argv.slice(2);
const store = await openStore(root);
for (let round = 0; round < Number(rounds); round++) {
  // Half of the names are everybody's, so that writers meet.
  const name = round % 2 === 0 ? `shared-${round}` : `own-${who}-${round}`;
  const contents = Object.fromEntries(
    Array.from({ length: 8 }, (_, i) => [`f${i}`, file(`${name} ${i} `.repeat(500))]),
  );
  const source = await store.addTree(name, treeFrom(directory(contents)));
  const texts = [1, 2, 3].map((i) => store.addText(`${name}.${i}.drv`, `see ${source.path}`, [source.path]));
  await Promise.all(texts);
  const output = makeTextPath(`out-${name}`, name);
  await store.withPathLocks([output], async () => {
    if (store.query(output)) return;
    const stage = await store.stage();
    try {
      const tree = treeFrom(directory({ out: file(name.repeat(1000)) }));
      await tree.walk(restoreTree(`${stage.path}/out`));
      const { narHash, narSize } = await hashTree(tree);
      const info = {
        path: output,
        narHash,
        narSize,
        references: [output, source.path].sort(),
        registrationTime: 1,
        ultimate: true,
        signatures: [],
      };
      await store.register([{ info, staged: `${stage.path}/out` }]);
    } finally {
      await stage.dispose();
    }
  });
  store.setMemo(name, output);
  process.send?.(round);
}
store.close();
process.disconnect();
