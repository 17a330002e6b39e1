import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { seccompFilter } from '../../../src/build/engines/seccomp.ts';

const allow = 'allow';
const EPERM = 1;
const ENOSYS = 38;
const ENOTSUP = 95;

/** What the kernel would do with a call: a small machine for those instructions of classic BPF that filters may have. */
function answer(
  program: Buffer,
  abi: number,
  call: number,
  args: readonly bigint[] = [],
): 'allow' | 'kill' | number {
  const data = Buffer.alloc(64);
  data.writeUInt32LE(call >>> 0, 0);
  data.writeUInt32LE(abi, 4);
  for (const [index, value] of args.entries())
    data.writeBigUInt64LE(BigInt.asUintN(64, value), 16 + 8 * index);
  let loaded = 0;
  for (let at = 0; at < program.length / 8; at++) {
    const code = program.readUInt16LE(at * 8);
    const value = program.readUInt32LE(at * 8 + 4);
    const jump = (condition: boolean): void => {
      at += program.readUInt8(at * 8 + (condition ? 2 : 3));
    };
    if (code === 0x20) loaded = data.readUInt32LE(value);
    else if (code === 0x15) jump(loaded === value);
    else if (code === 0x35) jump(loaded >= value);
    else if (code === 0x45) jump((loaded & value) !== 0);
    else if (code === 0x06) {
      if (value === 0x7fff0000) return 'allow';
      if (value === 0x80000000) return 'kill';
      if (value >>> 16 === 5) return value & 0xffff;
      throw new Error(`returns ${value}`);
    } else throw new Error(`instruction ${code}`);
  }
  throw new Error('the program has no end');
}

interface Abi {
  readonly processor: string;
  readonly abi: number;
  readonly open?: number;
  readonly openat: number;
  readonly chmod?: number;
  readonly fchmodat: number;
  readonly ioctl: number;
}

// AUDIT_ARCH_…, and numbers of calls as a builder would use them.
const x86_64: Abi = {
  processor: 'x64',
  abi: 0xc000003e,
  open: 2,
  openat: 257,
  chmod: 90,
  fchmodat: 268,
  ioctl: 16,
};
const i386: Abi = {
  processor: 'x64',
  abi: 0x40000003,
  open: 5,
  openat: 295,
  chmod: 15,
  fchmodat: 306,
  ioctl: 54,
};
const aarch64: Abi = { processor: 'arm64', abi: 0xc00000b7, openat: 56, fchmodat: 53, ioctl: 29 };
const arm: Abi = {
  processor: 'arm64',
  abi: 0x40000028,
  open: 5,
  openat: 322,
  chmod: 15,
  fchmodat: 333,
  ioctl: 54,
};

const raising = fc
  .tuple(fc.nat(0o7777), fc.constantFrom(0o4000, 0o2000, 0o6000))
  .map(([a, b]) => BigInt(a | b));
const harmless = fc.nat(0o7777).map((mode) => BigInt(mode & ~0o6000));
/** The kernel takes the lower half only. */
const upper = fc.bigInt(0n, 0xffffffffn).map((half) => half << 32n);

describe.each([x86_64, i386, aarch64, arm])('the filter for $processor, ABI $abi', (abi) => {
  const program = seccompFilter(abi.processor)!;
  const asked = (call: number, ...args: bigint[]) => answer(program, abi.abi, call, args);

  it('refuses modes with setuid and setgid, whatever is in the upper half of a register, and no other mode', () => {
    fc.assert(
      fc.property(raising, harmless, upper, (bad, good, half) => {
        if (abi.chmod !== undefined) {
          expect(asked(abi.chmod, 0n, bad | half)).toBe(EPERM);
          expect(asked(abi.chmod, 0n, good | half)).toBe(allow);
        }
        for (const call of [abi.fchmodat, 452]) {
          expect(asked(call, 0n, 0n, bad | half)).toBe(EPERM);
          expect(asked(call, 0n, 0n, good | half)).toBe(allow);
        }
      }),
    );
  });

  it('looks at the mode of open only where it makes a file', () => {
    const creating = [0o100n, 0o20200000n, 0o1101n];
    for (const flags of creating) {
      expect(asked(abi.openat, 0n, 0n, flags, 0o4755n)).toBe(EPERM);
      expect(asked(abi.openat, 0n, 0n, flags, 0o755n)).toBe(allow);
      if (abi.open !== undefined) expect(asked(abi.open, 0n, flags, 0o2755n)).toBe(EPERM);
    }
    expect(asked(abi.openat, 0n, 0n, 0o1n, 0o4755n)).toBe(allow);
  });

  it('refuses what types into a terminal, and no other ioctl', () => {
    for (const request of [0x5412n, 0x541cn, 0xffffffff00005412n])
      expect(asked(abi.ioctl, 0n, request)).toBe(EPERM);
    expect(asked(abi.ioctl, 0n, 0x5413n)).toBe(allow);
  });

  it('has no call whose arguments it could not see', () => {
    for (const call of [425, 426, 427, 437]) expect(asked(call)).toBe(ENOSYS);
  });

  it('allows every call that it does not name', () => {
    const refused = Array.from({ length: 600 }, (_, call) => call).filter((call) => asked(call) !== allow);
    // With arguments of zero: twelve for extended attributes and the four with `at`, three for keys, and those above.
    expect(refused).toHaveLength(12 + 4 + 3 + 4);
    const why = refused.map((call) => asked(call));
    expect(why.filter((errno) => errno === ENOTSUP)).toHaveLength(16);
    expect(why.filter((errno) => errno === EPERM)).toHaveLength(3);
  });
});

describe('the filter', () => {
  it('lets no other ABI be a way round', () => {
    const program = seccompFilter('x64')!;
    // x32: calls of the processor's own ABI with a bit set, and numbers of its own.
    for (const call of [39, 90, 514]) expect(answer(program, x86_64.abi, call | 0x40000000)).toBe(ENOSYS);
    for (const abi of [aarch64.abi, 0, 0x80000015]) expect(answer(program, abi, 39)).toBe('kill');
    expect(answer(seccompFilter('arm64')!, x86_64.abi, 39)).toBe('kill');
  });

  it('is not there for processors whose calls it does not know', () => {
    expect(seccompFilter('riscv64')).toBeUndefined();
    expect(seccompFilter('s390x')).toBeUndefined();
  });
});
