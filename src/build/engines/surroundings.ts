/** What a build sees of the machine without being promised it: the same for each build that is kept, another for one that only compares. */

export interface Surroundings {
  readonly hostName: string;
  readonly user: { readonly name: string; readonly uid: number; readonly gid: number };
  /** The working folder lies in memory: its entries are read in another order there than on a disk. */
  readonly inMemory: boolean;
  /** The builder may run on one processor only. */
  readonly oneProcessor: boolean;
}

/** Of everything that is kept. The user is named and numbered as Nix does it. */
const usual: Surroundings = {
  hostName: 'localhost',
  user: { name: 'nixbld', uid: 1000, gid: 100 },
  inMemory: false,
  oneProcessor: false,
};

/** `variation`: from 1; see `BuildRequest`. */
export function surroundingsOf(variation: number | undefined): Surroundings {
  if (variation === undefined) return usual;
  const id = 2000 + (variation % 1000);
  return {
    hostName: `rebuild-${variation}`,
    user: { name: `rebuilder${variation}`, uid: id, gid: id },
    inMemory: variation % 2 === 1,
    oneProcessor: variation % 2 === 1,
  };
}

/** The words that a build may have written down, as they are for what is kept, and as they are in this variation. */
export function changedWords(variation: number): readonly (readonly [string, string])[] {
  const { hostName, user } = surroundingsOf(variation);
  return [
    [usual.hostName, hostName],
    [usual.user.name, user.name],
    [`uid=${usual.user.uid}`, `uid=${user.uid}`],
    [`gid=${usual.user.gid}`, `gid=${user.gid}`],
  ];
}

/** NIX_BUILD_CORES. */
export function coresFor(cores: number, variation: number | undefined): number {
  if (variation === undefined) return cores;
  return surroundingsOf(variation).oneProcessor ? 1 : cores + 1;
}
