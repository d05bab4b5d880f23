/** What is measured: our core by its own runner, and two machines of QEMU's. */
export const competitors = ['core', 'microvm', 'q35'] as const;
export type Competitor = (typeof competitors)[number];
/** Values by the name of the figure, whose end is its unit. */
export type Figures = Record<string, Record<Competitor, number[]>>;
