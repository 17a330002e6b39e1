import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { hashTree } from '../../../src/formats/nar.ts';
import { NarParser } from '../../../src/formats/nar-parser.ts';
import { directory, file, narOf, symlink, TreeCollector, treeFrom } from '../../support/trees.ts';

/** The folder that Nix packed; names are latin1. */
const packed = directory({
  A: file('x'),
  a: directory({ empty: directory(), text: file('text\n') }),
  'a.b': file(''),
  bin: directory({ run: file('#!/bin/sh\n', true) }),
  link: symlink('../a target'),
  zeros: file(Buffer.alloc(1001)),
  'Ã©': file('é'),
  '\xff\xfe': file('bytes'),
});

describe('a NAR that Nix wrote', () => {
  const nar = readFileSync(new URL('../../vectors/sample.nar', import.meta.url));

  it('is the one that flk writes for the same tree', async () => {
    expect(narOf(packed).equals(nar)).toBe(true);
    // nix hash path
    expect(await hashTree(treeFrom(packed))).toEqual({
      narHash: 'sha256-sK4U1cfV8PrChmItWfUup55qC2uOHPtNCDUQ71W0mUE=',
      narSize: 3176,
    });
  });

  it('reads as that tree', () => {
    const collector = new TreeCollector();
    const parser = new NarParser(collector);
    parser.push(nar);
    parser.end();
    expect(collector.root).toEqual(packed);
  });
});
