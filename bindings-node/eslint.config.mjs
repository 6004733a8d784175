import eslint from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["dist", "build", "node_modules", "test/prisma", "lib/*_gen.ts"] },
  eslint.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { project: "./tsconfig.check.json", tsconfigRootDir: import.meta.dirname } },
    rules: {
      // Step and workflow functions are async by their role, whether or not they wait.
      "@typescript-eslint/require-await": "off",
      // Recurses without end on types that hold themselves.
      "@typescript-eslint/no-unsafe-class-instance-assignment": "off",
      // Methods are named as the place a call came from, never called unbound.
      "@typescript-eslint/unbound-method": "off",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  {
    files: ["lib/**/*.ts"],
    rules: {
      // Branches of groups throw what the user's code threw, and dropped calls a symbol of ours.
      "@typescript-eslint/only-throw-error": "off",
    },
  },
  {
    // Programs of users: JSON of the suite, and input that no type allows.
    files: ["test/**/*.ts", "examples/**/*.ts", "conformance/**/*.ts"],
    rules: {
      "@typescript-eslint/no-explicit-any": "off",
      "@typescript-eslint/restrict-plus-operands": "off",
      "@typescript-eslint/use-unknown-in-catch-callback-variable": "off",
      "@typescript-eslint/no-unnecessary-condition": "off",
      "@typescript-eslint/no-meaningless-void-operator": "off",
      "@typescript-eslint/no-floating-promises": ["error", { allowForKnownSafeCalls: [{ from: "package", name: ["it", "describe"], package: "node:test" }] }],
      "@typescript-eslint/no-unsafe-argument": "off",
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-call": "off",
      "@typescript-eslint/no-unsafe-member-access": "off",
      "@typescript-eslint/no-unsafe-return": "off",
    },
  },
  { files: ["test/*.types.ts"], rules: { "@typescript-eslint/no-unused-vars": "off", "@typescript-eslint/no-unnecessary-type-parameters": "off" } },
  { files: ["**/*.mjs"], languageOptions: { globals: { process: "readonly", console: "readonly", URL: "readonly" } }, rules: { "no-empty": "off", "no-unused-vars": ["error", { varsIgnorePattern: "^_" }] } },
);
