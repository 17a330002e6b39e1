import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    pool: 'forks',
    // What is waited for comes soon on an idle machine; on a busy one it may take.
    expect: { poll: { interval: 20, timeout: 30_000 } },
  },
});
