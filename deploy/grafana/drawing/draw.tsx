// Draws one dashboard with Grafana's own components, from its JSON and the series that Prometheus gave for it.
// Grafana itself also loads plugins, resolves variables and asks the data source; here that is done by whoever
// puts `window.drawing` there: see tests/deploy/dashboards_check/drawing.py.
import {
  createTheme,
  dateTime,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayName,
  stringToJsRegex,
  ThemeContext,
  type DataFrame,
  type Field,
  type GrafanaTheme2,
  type TimeRange,
} from '@grafana/data';
import { BigValue, Icon, GlobalStyles, PanelChrome, TimeSeries, type UPlotConfigBuilder } from '@grafana/ui';
import type { ReactNode } from 'react';
import { createRoot } from 'react-dom/client';

type Series = { metric: Record<string, string>; values: Array<[number, string]> };
type Dashboard = any; // as deploy/grafana/dashboards has it: the SDK is its schema
type Panel = any;

declare global {
  interface Window {
    drawing: {
      mode: 'light' | 'dark';
      dashboard: Dashboard;
      titles: string[];
      series: Record<string, Record<string, Series[]>>;
      steps: Record<string, number>;
      annotations: Series[];
      from: number;
      to: number;
      step: number;
      window: string;
      width: number;
    };
  }
}

const { mode, dashboard, titles, series, steps, annotations, from, to, step, width, window: over } = window.drawing;
const theme: GrafanaTheme2 = createTheme({ colors: { mode } });
const COLUMNS = 24;
const ROW_PX = 36;
const GAP_PX = 8;
const HEAD_PX = 60;
const column = (width - GAP_PX) / COLUMNS;
const range: TimeRange = {
  from: dateTime(from * 1000),
  to: dateTime(to * 1000),
  raw: { from: dateTime(from * 1000), to: dateTime(to * 1000) },
};

// What Grafana's timeseries panel takes where a dashboard is silent.
const CUSTOM_DEFAULTS = {
  drawStyle: 'line',
  lineInterpolation: 'linear',
  lineWidth: 1,
  fillOpacity: 0,
  showPoints: 'auto',
  pointSize: 5,
  spanNulls: false,
  axisPlacement: 'auto',
  axisColorMode: 'text',
  axisBorderShow: false,
  scaleDistribution: { type: 'linear' },
  stacking: { mode: 'none', group: 'A' },
  hideFrom: { legend: false, tooltip: false, viz: false },
  thresholdsStyle: { mode: 'off' },
  barAlignment: 0,
  gradientMode: 'none',
};

function named(format: string, metric: Record<string, string>): string {
  return format.replace(/{{\s*(\w+)\s*}}/g, (_, label) => metric[label] ?? '');
}

function renamed(name: string, panel: Panel): string {
  return (panel.transformations ?? [])
    .filter((t: any) => t.id === 'renameByRegex')
    .reduce((was: string, t: any) => was.replace(stringToJsRegex(t.options.regex), t.options.renamePattern), name);
}

function put(into: any, path: string, value: unknown): void {
  const keys = path.split('.');
  const last = keys.pop()!;
  for (const key of keys) {
    into = into[key] ??= {};
  }
  into[last] = value;
}

/** Defaults, then the panel's own, then its overrides: as Grafana merges them. */
function configOf(panel: Panel, refId: string): any {
  const own = structuredClone(panel.fieldConfig.defaults);
  const config = { ...own, custom: { ...CUSTOM_DEFAULTS, ...own.custom } };
  for (const override of panel.fieldConfig.overrides ?? []) {
    if (override.matcher.id !== 'byFrameRefID') {
      throw new Error(`${panel.title}: overrides by ${override.matcher.id} are not drawn yet`);
    }
    if (override.matcher.options === refId) {
      override.properties.forEach((property: any) => put(config, property.id, property.value));
    }
  }
  config.color ??= { mode: panel.type === 'stat' ? 'thresholds' : 'palette-classic' };
  return config;
}

/** Nothing where there was no point, as Grafana has it: a process that was away leaves a gap, no slope. */
function withGaps(values: Array<[number, string]>, every: number): Array<[number, string | null]> {
  return values.flatMap((point, i): Array<[number, string | null]> =>
    i > 0 && point[0] - values[i - 1][0] > 1.5 * every ? [[values[i - 1][0] + every, null], point] : [point]
  );
}

function framesOf(panel: Panel): DataFrame[] {
  const frames: DataFrame[] = [];
  for (const target of panel.targets) {
    for (const one of series[panel.id]?.[target.refId] ?? []) {
      const every = steps[panel.id] ?? step;
      const points = withGaps(one.values, every);
      const values = points.map(([, value]) => (value !== null && Number.isFinite(Number(value)) ? Number(value) : null));
      if (values.every((value) => value === null)) {
        continue;
      }
      const time: Field = {
        name: 'Time',
        type: FieldType.time,
        config: { interval: every * 1000 },
        values: points.map(([seconds]) => seconds * 1000),
      };
      const value: Field = {
        name: 'Value',
        type: FieldType.number,
        config: configOf(panel, target.refId),
        values,
        labels: one.metric,
      };
      value.config.displayName = renamed(named(target.legendFormat, one.metric), panel);
      frames.push({ refId: target.refId, fields: [time, value], length: values.length });
    }
  }
  frames.forEach((frame, index) => prepare(frame.fields[1], frame, frames, index));
  return frames;
}

function prepare(field: Field, frame: DataFrame, frames: DataFrame[], index: number): void {
  const numbers = field.values.filter((value: number | null) => value !== null);
  const [min, max] = [Math.min(...numbers), Math.max(...numbers)];
  field.state = { seriesIndex: index, range: { min, max, delta: max - min } };
  field.display = getDisplayProcessor({ field, theme });
  field.state.displayName = getFieldDisplayName(field, frame, frames);
}

function marks(builder: UPlotConfigBuilder): ReactNode {
  const moments = annotations.flatMap((one) =>
    one.values.map(([seconds]) => seconds).filter((seconds, i, all) => i === 0 || seconds - all[i - 1] > step)
  );
  builder.addHook('draw', (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName('purple');
    ctx.setLineDash([4, 4]);
    for (const seconds of moments) {
      const x = Math.round(plot.valToPos(seconds * 1000, 'x', true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.moveTo(x - 4, bbox.top + bbox.height + 5);
      ctx.lineTo(x + 4, bbox.top + bbox.height + 5);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.fill();
    }
    ctx.restore();
  });
  return null;
}

function Chart({ panel, frames, ...size }: { panel: Panel; frames: DataFrame[]; width: number; height: number }) {
  return (
    <TimeSeries
      {...size}
      frames={frames}
      structureRev={1}
      timeRange={range}
      timeZone="utc"
      legend={panel.options.legend}
      options={panel.options}
    >
      {marks}
    </TimeSeries>
  );
}

function Number_({ panel, frames, ...size }: { panel: Panel; frames: DataFrame[]; width: number; height: number }) {
  const [frame] = frames;
  const field = frame.fields[1];
  const last = field.values.filter((value: number | null) => value !== null).at(-1);
  const { graphMode, colorMode, justifyMode, textMode } = panel.options;
  const sparkline = graphMode === 'none' ? undefined : { y: field, x: frame.fields[0] };
  return (
    <BigValue
      {...size}
      theme={theme as any}
      value={field.display!(last)}
      sparkline={sparkline}
      graphMode={graphMode}
      colorMode={colorMode}
      justifyMode={justifyMode ?? 'auto'}
      textMode={textMode === 'auto' || !textMode ? ('value' as any) : textMode}
    />
  );
}

function Place({ at, children }: { at: any; children: ReactNode }) {
  const style = {
    position: 'absolute' as const,
    left: GAP_PX + at.x * column,
    top: HEAD_PX + at.y * (ROW_PX + GAP_PX),
  };
  return <div style={style}>{children}</div>;
}

function Drawn({ panel }: { panel: Panel }) {
  const at = panel.gridPos;
  if (panel.type === 'row') {
    return (
      <Place at={at}>
        <div style={{ ...theme.typography.h5, color: theme.colors.text.primary, paddingTop: 10 }}>
          <Icon name="angle-down" /> {panel.title}
        </div>
      </Place>
    );
  }
  const frames = framesOf(panel);
  const Content = panel.type === 'stat' ? Number_ : Chart;
  return (
    <Place at={at}>
      <PanelChrome
        title={panel.title}
        description={panel.description}
        width={at.w * column - GAP_PX}
        height={at.h * (ROW_PX + GAP_PX) - GAP_PX}
      >
        {(innerWidth, innerHeight) =>
          frames.length ? (
            <Content panel={panel} frames={frames} width={innerWidth} height={innerHeight} />
          ) : (
            <div className="empty" style={{ color: theme.colors.text.secondary, textAlign: 'center', paddingTop: 20 }}>
              {panel.fieldConfig.defaults.noValue ?? 'No data'}
            </div>
          )
        }
      </PanelChrome>
    </Place>
  );
}

function Head() {
  const chip = (text: string, isHere = false) => (
    <span
      key={text}
      style={{
        padding: '4px 10px',
        borderRadius: theme.shape.radius.default,
        background: isHere ? theme.colors.background.secondary : undefined,
        border: `1px solid ${theme.colors.border.weak}`,
      }}
    >
      {text}
    </span>
  );
  return (
    <div
      style={{
        ...theme.typography.bodySmall,
        color: theme.colors.text.secondary,
        position: 'absolute',
        left: GAP_PX,
        right: GAP_PX,
        top: 12,
        display: 'flex',
        alignItems: 'center',
        gap: 8,
      }}
    >
      <span style={{ ...theme.typography.h4, color: theme.colors.text.primary, marginRight: 8 }}>{dashboard.title}</span>
      {chip('Job  All')}
      {chip('Instance  All')}
      {chip(`Window  ${over}`)}
      <span style={{ flex: 1 }} />
      {titles.map((title) => chip(title, title === dashboard.title))}
      {chip('Runbook')}
    </div>
  );
}

const rows = Math.max(...dashboard.panels.map((panel: Panel) => panel.gridPos.y + panel.gridPos.h));
createRoot(document.getElementById('root')!).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ position: 'relative', width, height: HEAD_PX + rows * (ROW_PX + GAP_PX) }}>
      <Head />
      {dashboard.panels.map((panel: Panel) => (
        <Drawn key={panel.id} panel={panel} />
      ))}
    </div>
  </ThemeContext.Provider>
);
