/** flk's own version, as package.json has it (a test holds them equal: reading that file would cost every start). */
export const version = '0.1.0';
