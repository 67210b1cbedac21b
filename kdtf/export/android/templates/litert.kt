package {{ package }}

import android.app.Activity
import android.os.Bundle
import android.widget.TextView
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import kotlin.concurrent.thread

private const val MODEL = "{{ asset }}"
private const val SIGNATURE = {{ signature.key | kotlin }}

/** Runs the model on zeros and shows the first numbers it gives. */
class MainActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val view = TextView(this)
        setContentView(view)
        thread {
            val text = runModel()
            runOnUiThread { view.text = text }
        }
    }

    private fun runModel(): String {
        val options = CompiledModel.Options(Accelerator.CPU)
        CompiledModel.create(assets, MODEL, options).use { model ->
            val inputs = mapOf(
{% for spec in signature.inputs %}
                {{ spec.name | kotlin }} to
                    model.createInputBuffer({{ spec.name | kotlin }}, SIGNATURE),
{% endfor %}
            )
            val outputs = mapOf(
{% for spec in signature.outputs %}
                {{ spec.name | kotlin }} to
                    model.createOutputBuffer({{ spec.name | kotlin }}, SIGNATURE),
{% endfor %}
            )
{% for spec in signature.inputs %}
            // {{ spec.dtype }}, shape {{ spec.shape | list }}{{ spec | grid }}
            inputs.getValue({{ spec.name | kotlin }})
                .write{{ kinds[spec.dtype][0] }}({{ kinds[spec.dtype][1] }}({{ spec.shape | count }}))
{% endfor %}
            model.run(inputs, outputs, SIGNATURE)
            val lines = listOf(
{% for spec in signature.outputs %}
                // {{ spec.dtype }}, shape {{ spec.shape | list }}{{ spec | grid }}
                {{ spec.name | kotlin }} + ": " +
                    outputs.getValue({{ spec.name | kotlin }})
                        .read{{ kinds[spec.dtype][0] }}().take(10),
{% endfor %}
            )
            (inputs.values + outputs.values).forEach { it.close() }
            return lines.joinToString("\n")
        }
    }
}
