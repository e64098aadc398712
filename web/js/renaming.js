// Saved workflows under today's names of inputs. Nothing here needs the page: tests/test_renamed.py runs it in node.

// Under which name an input's options in /object_info say what it was called (nodes/renamed.py).
export const RENAMED_FROM = 'exemplar_renamed_from'

// Former names of a node's inputs -> today's; null where none was renamed.
// definition: what /object_info says of the node.
export function renamesOf(definition) {
  const groups = [definition?.input?.required, definition?.input?.optional]
  const pairs = groups.flatMap((group) =>
    Object.entries(group ?? {})
      .filter(([, spec]) => spec?.[1]?.[RENAMED_FROM])
      .map(([name, spec]) => [spec[1][RENAMED_FROM], name])
  )
  return pairs.length ? Object.fromEntries(pairs) : null
}

// Renames in one saved node, in place. Where it has an input under both names, today's is meant and nothing is done.
export function renameInNode(node, renames) {
  const inputs = Array.isArray(node.inputs) ? node.inputs : []
  for (const [former, name] of Object.entries(renames)) {
    if (inputs.some((input) => input?.name === name)) continue
    for (const input of inputs) {
      if (input?.name !== former) continue
      input.name = name
      if (input.widget?.name === former) input.widget.name = name
    }
  }
  for (const key of ['widgets_values', 'widgets_values_named']) {
    const values = node[key]
    if (values && typeof values === 'object' && !Array.isArray(values)) node[key] = renamedKeys(values, renames)
  }
}

function renamedKeys(values, renames) {
  const kept = Object.entries(values).filter(([key]) => !(Object.hasOwn(renames, key) && renames[key] in values))
  return Object.fromEntries(kept.map(([key, value]) => [Object.hasOwn(renames, key) ? renames[key] : key, value]))
}

// Renames in a whole saved workflow, in place: in its nodes, those of its subgraphs, and in what names their widgets
// from outside (a subgraph's promoted widgets, App mode).
// renamed: node type -> what renamesOf gave.
export function renameInWorkflow(workflow, renamed) {
  const subgraphs = workflow?.definitions?.subgraphs ?? []
  const graphs = [workflow, ...subgraphs].filter((graph) => Array.isArray(graph?.nodes))
  for (const node of graphs.flatMap((graph) => graph.nodes)) {
    if (renamed.has(node?.type)) renameInNode(node, renamed.get(node.type))
  }
  for (const node of graphs.flatMap((graph) => graph.nodes)) {
    const inside = subgraphs.find((subgraph) => subgraph?.id === node?.type)
    if (inside) renameReferences(node.properties?.proxyWidgets, inside, renamed)
  }
  renameReferences(workflow?.extra?.linearData?.inputs, workflow, renamed)
}

// [id of a node, name of its widget, ...] lists
function renameReferences(references, graph, renamed) {
  for (const reference of Array.isArray(references) ? references : []) {
    if (!Array.isArray(reference)) continue
    const node = graph?.nodes?.find((each) => String(each?.id) === String(reference[0]))
    const renames = node && renamed.get(node.type)
    if (renames && Object.hasOwn(renames, reference[1])) reference[1] = renames[reference[1]]
  }
}
