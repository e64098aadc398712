// Workflows that were saved before inputs were renamed keep their links and values.

import { app } from '../../../scripts/app.js'
import { renameInNode, renameInWorkflow, renamesOf } from './renaming.js'

const renamed = new Map()

app.registerExtension({
  name: 'Exemplar.RenamedInputs',

  beforeRegisterNodeDef(nodeType, nodeData) {
    const renames = renamesOf(nodeData)
    if (!renames) return
    renamed.set(nodeData.name, renames)
    // nodes that come without a workflow around them: pasted ones, those of saved blueprints
    const configure = nodeType.prototype.configure
    nodeType.prototype.configure = function (saved, ...rest) {
      if (saved) renameInNode(saved, renames)
      return configure.call(this, saved, ...rest)
    }
  },

  beforeConfigureGraph(workflow) {
    renameInWorkflow(workflow, renamed)
  }
})
