// Stands in for react-custom-scrollbars-2, whose build does not bundle as a module: pictures do not scroll.
import type { ReactNode } from 'react';

export default function Scrollbars({ children }: { children: ReactNode }) {
  return <div>{children}</div>;
}
