import tseslint from 'typescript-eslint';

/** What each folder may import; arrows only point down (DESIGN: plugin, cli > machine > supervisor > the rest > base). */
const below = {
  base: [],
  grpc: ['base'],
  network: ['base'],
  'user-network': ['base', 'grpc', 'hypervisor', 'network'],
  hypervisor: ['base'],
  image: ['base'],
  guest: ['base'],
  supervisor: ['base', 'grpc', 'guest', 'hypervisor', 'network', 'user-network'],
  machine: ['base', 'hypervisor', 'network', 'image', 'guest', 'supervisor', 'user-network'],
  plugin: ['base', 'grpc', 'machine'],
  cli: ['base', 'guest', 'hypervisor', 'machine', 'network', 'user-network'],
};

const layerRules = Object.entries(below).map(([folder, allowed]) => ({
  files: [`driver/${folder}/**/*.ts`],
  ignores: [`driver/${folder}/**/generated/**`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: [
          {
            group: Object.keys(below)
              .filter((other) => other !== folder && !allowed.includes(other))
              .flatMap((other) => [`../${other}/*`, `../../${other}/*`]),
            message: `driver/${folder} may only import from: ${allowed.join(', ') || 'itself'}.`,
          },
          {
            regex: `^(\\.\\./)+(${allowed.join('|') || 'none'})/(?!index\\.js$|driver\\.js$)`,
            message: "Import a folder's index.js, not what lies behind it.",
          },
        ],
      },
    ],
  },
}));

export default tseslint.config(
  {
    ignores: [
      'dist',
      'node_modules',
      'iso/out',
      '**/generated',
      'coverage',
      'scripts/*.mjs',
      'test/bench/run.mjs',
      'test/bench/out',
      'test/lab/**/out',
    ],
  },
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.strictTypeChecked, ...tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      // A field's default may name what another default names too.
      '@typescript-eslint/no-unused-vars': ['error', { varsIgnorePattern: '^_', argsIgnorePattern: '^_' }],
      '@typescript-eslint/no-empty-function': 'off',
      '@typescript-eslint/prefer-promise-reject-errors': 'off',
    },
  },
  ...layerRules,
);
